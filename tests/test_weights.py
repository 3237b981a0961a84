"""Weight files: every layout gives the same network, and whatever is wrong with a file is named."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scaleevent.encoders.encoder import build_encoder
from scaleevent.encoders.weights import convert_weights, detect_layout, read_weights
from scaleevent.errors import CheckpointError

WIDTH, DEPTH, PATCH = 96, 4, 8  # the architecture "tiny", with query and value biases


@pytest.fixture(scope="module")
def timm_state() -> dict[str, Tensor]:
    """Random weights under timm's names, every one different from its usual start."""
    shapes = build_encoder("tiny").vit.state_dict()
    shapes |= {f"blocks.{i}.attn.{p}_bias": torch.empty(WIDTH) for i in range(DEPTH) for p in "qv"}
    random = torch.Generator().manual_seed(0)
    return {n: 0.1 * torch.randn(t.shape, generator=random) for n, t in shapes.items()}


def to_meta(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm to Meta, written from models/vision_transformer.py of facebookresearch/dinov3."""
    meta = {"mask_token": torch.zeros(1, WIDTH), "rope_embed.periods": 100 ** (torch.arange(8) / 8)}
    for name, tensor in state.items():
        if name.endswith(".attn.q_bias"):
            v_bias = state[name.replace("q_bias", "v_bias")]
            qkv = name.replace("q_bias", "qkv.bias")
            meta[qkv] = torch.cat([tensor, torch.full((WIDTH,), 7.0), v_bias])
            meta[f"{qkv}_mask"] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(WIDTH)
        elif not name.endswith(".attn.v_bias"):
            name = name.replace("reg_token", "storage_tokens")
            meta[name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")] = tensor
    return meta


def to_huggingface(state: dict[str, Tensor], layers: str) -> dict[str, Tensor]:
    """timm to Hugging Face, written from its modeling_dinov3_vit.py."""
    names = {
        "reg_token": "embeddings.register_tokens",
        "cls_token": "embeddings.cls_token",
        "patch_embed.proj": "embeddings.patch_embeddings",
        "blocks.": layers,
        "attn.proj": "attention.o_proj",
        "attn.q_bias": "attention.q_proj.bias",
        "attn.v_bias": "attention.v_proj.bias",
        "gamma_1": "layer_scale1.lambda1",
        "gamma_2": "layer_scale2.lambda1",
        "mlp.fc1": "mlp.up_proj",
        "mlp.fc2": "mlp.down_proj",
    }
    converted = {"embeddings.mask_token": torch.zeros(1, 1, WIDTH)}
    for name, tensor in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if name.endswith("attn.qkv.weight"):
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed = name.replace("attn.qkv", f"attention.{part}_proj")
                converted[renamed] = third.contiguous()
        else:
            converted[name] = tensor
    return converted


def write(kind: str, state: dict[str, Tensor], folder: Path) -> Path:
    """A file of this kind; its name tells nothing."""
    path = folder / "weights"
    match kind:
        case "meta":
            torch.save(to_meta(state), path)
        case "meta, old pickle":
            torch.save(to_meta(state), path, _use_new_zipfile_serialization=False)
        case "training container":
            inner = {f"module.backbone.{n}": t for n, t in to_meta(state).items()}
            torch.save({"model": inner, "epoch": 3}, path)
        case "released":
            torch.save({f"module.event_encoder.{n}": t for n, t in to_meta(state).items()}, path)
        case "lightly":
            save_file({f"model.backbone.{n}": t for n, t in to_meta(state).items()}, path)
        case "huggingface 4":
            save_file(to_huggingface(state, "layer."), path)
        case "huggingface 5":
            save_file(to_huggingface(state, "model.layer."), path)
        case "timm":
            save_file(state, path)
    return path


KINDS = {
    "meta": "meta",
    "meta, old pickle": "meta",
    "training container": "meta",
    "released": "meta",
    "lightly": "meta",
    "huggingface 4": "huggingface",
    "huggingface 5": "huggingface",
    "timm": "timm",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_same_features(kind, timm_state, tmp_path):
    path = write(kind, timm_state, tmp_path)
    weights = read_weights(path)
    assert weights.layout == KINDS[kind]
    assert weights.state.keys() == timm_state.keys()
    assert all(torch.equal(weights.state[name], timm_state[name]) for name in timm_state)
    shape = weights.shape
    assert (shape.width, shape.depth, shape.patch, shape.registers) == (WIDTH, DEPTH, PATCH, 4)
    assert shape.qkv_bias and shape.heads == (3 if KINDS[kind] == "meta" else None)

    x = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    reference = build_encoder("tiny", write("timm", timm_state, tmp_path)).eval()
    encoder = build_encoder("tiny", write(kind, timm_state, tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(encoder.tokens(x), reference.tokens(x))


@pytest.mark.parametrize("bias", ["zero", "masked", "none"])
def test_biases_that_are_zero_are_left_out(bias, timm_state):
    meta = to_meta(timm_state)
    for name in [name for name in meta if name.endswith("qkv.bias")]:
        if bias == "zero":
            meta[name] = torch.zeros_like(meta[name])
        elif bias == "masked":
            meta[f"{name}_mask"] = torch.zeros_like(meta[name])
        else:
            del meta[name], meta[f"{name}_mask"]
    weights = convert_weights(meta)
    assert not weights.shape.qkv_bias
    assert not [name for name in weights.state if "bias" in name and "attn.qkv" in name]


def test_a_mask_that_was_never_filled_means_query_and_value(timm_state):
    meta = to_meta(timm_state)
    unfilled = {
        n: torch.full_like(t, torch.nan) for n, t in meta.items() if n.endswith("bias_mask")
    }
    assert unfilled
    state = convert_weights(meta | unfilled).state
    assert all(torch.equal(state[name], timm_state[name]) for name in timm_state)


def test_a_key_bias_is_refused(timm_state):
    meta = {n: t for n, t in to_meta(timm_state).items() if not n.endswith("bias_mask")}
    with pytest.raises(
        CheckpointError, match="bias on its attention keys.*\n.*blocks.0.attn.k_bias"
    ):
        convert_weights(meta)


def test_half_precision_becomes_float32(timm_state, tmp_path):
    path = write("timm", {n: t.bfloat16() for n, t in timm_state.items()}, tmp_path)
    state = read_weights(path).state
    assert all(torch.equal(state[n], t.bfloat16().float()) for n, t in timm_state.items())


@pytest.mark.parametrize("convert", [dict, to_meta, lambda state: to_huggingface(state, "layer.")])
def test_every_single_lost_key_is_an_error(convert, timm_state):
    """Also each one added and each one cut short."""
    complete = convert(timm_state)
    free = {"mask_token", "embeddings.mask_token", "rope_embed.periods"}
    for name in complete.keys() - free:
        if name.endswith("bias_mask"):
            continue
        without = {other: tensor for other, tensor in complete.items() if other != name}
        with pytest.raises(CheckpointError):
            convert_weights(without)
        cut = complete | {name: complete[name].flatten()[:-1]}
        with pytest.raises(CheckpointError):
            convert_weights(cut)
    with pytest.raises(CheckpointError, match=r"1 unexpected: blocks\.0\.extra"):
        convert_weights(complete | {"blocks.0.extra": torch.zeros(1)})


def test_missing_keys_are_named(timm_state, tmp_path):
    lost = {"norm.weight", "blocks.2.mlp.fc1.bias"}
    path = write("timm", {n: t for n, t in timm_state.items() if n not in lost}, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"2 missing: blocks\.2\.mlp\.fc1\.bias, norm\.weight"
    ):
        read_weights(path)


@pytest.mark.parametrize("kind", ["meta", "meta, old pickle", "timm"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_an_error(kind, share, timm_state, tmp_path):
    path = write(kind, timm_state, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="not a (readable weight|whole safetensors) file"):
        read_weights(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(zipped, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "weights.pth"
    torch.save({"cls_token": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="could run code"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(CheckpointError):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_other_contents_are_refused(timm_state, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="no state dict"):
        read_weights(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="no state dict"):
        read_weights(path)
    path.write_text("hello, this is not a weight file")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_weights(path)
    meta = to_meta(timm_state)
    with pytest.raises(CheckpointError, match="SwiGLU.*\n.*w1"):
        convert_weights(meta | {"blocks.0.mlp.w1.weight": torch.zeros(1)})
    two = {f"{who}.{n}": t for who in ("encoder", "backbone") for n, t in meta.items()}
    with pytest.raises(CheckpointError, match="several vision transformers.*\n.*backbone, encoder"):
        convert_weights(two)
    with pytest.raises(CheckpointError, match="not finite.*\n.*norm.bias"):
        convert_weights(meta | {"norm.bias": torch.full((WIDTH,), torch.nan)})
    hf = to_huggingface(timm_state, "layer.")
    with pytest.raises(CheckpointError, match="two keys mean the same"):
        convert_weights(hf | {"model.layer.0.norm1.bias": torch.zeros(WIDTH)})


def test_layouts_are_recognised_by_their_marks():
    assert detect_layout(["storage_tokens"]) == "meta"
    assert detect_layout(["blocks.3.ls2.gamma"]) == "meta"
    assert detect_layout(["reg_token", "blocks.0.gamma_1"]) == "timm"
    assert detect_layout(["embeddings.register_tokens"]) == "huggingface"
    for keys in ([], ["weight"], ["storage_tokens", "reg_token"]):
        with pytest.raises(CheckpointError, match="layout"):
            detect_layout(keys)


@pytest.mark.parametrize("start", [b"PK", b"\x80\x4f"])
def test_safetensors_that_begin_like_an_archive(start, timm_state, tmp_path):
    """The first bytes of safetensors are a length, which can look like a zip file or a pickle."""
    path = write("timm", timm_state, tmp_path)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    length = int.from_bytes(start, "little")
    path.write_bytes(length.to_bytes(8, "little") + content[8:end].ljust(length) + content[end:])
    assert path.read_bytes().startswith(start)
    assert read_weights(path).state.keys() == timm_state.keys()


# What training scripts save


HEADS = {
    "dino_head.mlp.0.weight": torch.zeros(2, 2),
    "dino_head.last_layer.weight_g": torch.ones(2),
    "ibot_head.mlp.0.weight": torch.zeros(2, 2),
}


def behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def changed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in state.items()}


RUNS = {  # what a file holds, and a part of every remark on it
    "teacher": (lambda m: {"teacher": behind("backbone.", m) | HEADS, "iteration": 7},
                ["left out beside the encoder: teacher.dino_head (2), teacher.ibot_head"]),
    "student": (lambda m: {"student": behind("backbone.", m) | HEADS}, ["student.dino_head (2)"]),
    "teacher and student": (
        lambda m: {"student": behind("backbone.", changed(m)), "teacher": behind("backbone.", m),
                   "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}},
        ["encoder taken: teacher.backbone; the file holds student.backbone too",
         "optimizer.state"]),
    "teacher of DINOv3": (
        lambda m: behind("student.backbone.", changed(m)) | behind("teacher.backbone.", m)
        | behind("model_ema.backbone.", m) | behind("gram_teacher.backbone.", changed(m)),
        ["encoder taken: teacher.backbone", "gram_teacher.backbone ("]),
    "moving average": (lambda m: {"model": changed(m), "model_ema": m},
                       ["encoder taken: model_ema; the file holds model too", "model."]),
    "lightly": (
        lambda m: {"state_dict": behind("student_embedding_model.wrapped_model.", changed(m))
                   | behind("teacher_embedding_model.wrapped_model.", m)},
        ["encoder taken: state_dict.teacher_embedding_model.wrapped_model", "left out"]),
    "pretrained": (lambda m: behind("pretrained.", m), []),
    "lightning": (lambda m: {"state_dict": behind("net.vit.", m) | {"net.fc": torch.ones(2)},
                             "epoch": 3, "hyper_parameters": {"lr": 0.1}}, ["left out"]),
    "compiled": (lambda m: {f"_orig_mod.{n}".replace("s.1.", "s.1._orig_mod."): t
                            for n, t in m.items()}, []),
    "classifier": (lambda m: m | {"head.weight": torch.zeros(3, 3), "head.bias": torch.zeros(3)},
                   ["left out beside the encoder: head.weight, head.bias"]),
    "heads beside a bare encoder": (lambda m: m | HEADS, ["dino_head.mlp, dino_head.last_layer"]),
}  # fmt: skip


@pytest.mark.parametrize("convert", [dict, to_meta, lambda state: to_huggingface(state, "layer.")])
@pytest.mark.parametrize("run", RUNS)
def test_the_encoder_of_a_training_run_is_found(run, convert, timm_state, tmp_path):
    make, expected = RUNS[run]
    torch.save(make(convert(timm_state)), tmp_path / "run.pth")
    found = read_weights(tmp_path / "run.pth")
    assert found.state.keys() == timm_state.keys()
    assert all(torch.equal(found.state[name], timm_state[name]) for name in timm_state)
    assert len(found.remarks) == len(expected)
    for remark, part in zip(found.remarks, expected, strict=True):
        assert part in remark
    assert build_encoder("tiny", tmp_path / "run.pth").remarks == found.remarks


@pytest.mark.parametrize("lost", ["norm.weight", "blocks.1.attn.proj.bias"])
def test_heads_are_left_out_of_a_complete_encoder_only(lost, timm_state):
    state = {n: t for n, t in timm_state.items() if n != lost} | {"head.weight": torch.ones(2)}
    with pytest.raises(CheckpointError, match=f"1 missing: {lost}; 1 unexpected: head.weight"):
        convert_weights(state)


@pytest.mark.parametrize(
    "names",
    [("left.", "right."), ("a.teacher.", "b.teacher."), ("", "copy."), ("gram_teacher.", "x.")],
)
def test_of_several_encoders_none_is_guessed(names, timm_state):
    meta = to_meta(timm_state)
    with pytest.raises(CheckpointError, match="several vision transformers") as caught:
        convert_weights({k: v for name in names for k, v in behind(name, meta).items()})
    for name in names:
        assert (name.rstrip(".") or "(no prefix)") in str(caught.value)


def test_no_message_shows_a_regular_expression(timm_state):
    meta = to_meta(timm_state)
    wrong = [{"conv1.weight": torch.ones(2)}, {f"x.{n}": t for n, t in list(meta.items())[3:]},
             behind("a.", meta) | behind("b.", meta), {"my_patch_embed.proj.weight": torch.ones(2)},
             {n.replace("ls", "scale"): t for n, t in meta.items()}]  # fmt: skip
    for tensors in wrong:
        with pytest.raises(CheckpointError) as caught:
            convert_weights(tensors)
        assert not set("*\\^$|") & set(str(caught.value))


def test_a_checkpoint_in_parts_is_named(tmp_path):
    folder = tmp_path / "8000"
    folder.mkdir()
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp"):
        (folder / name).write_bytes(b"x")
    for path in (folder, folder / "__0_0.distcp", folder / ".metadata"):
        with pytest.raises(CheckpointError, match=r"dcp_to_torch \S+8000 FILE\.pth"):
            build_encoder(weights=path)


@pytest.mark.slow
def test_the_command_that_joins_the_parts(timm_state, tmp_path):
    import torch.distributed.checkpoint as dcp

    teacher = behind("backbone.", to_meta(timm_state)) | HEADS
    dcp.save({"teacher": teacher}, checkpoint_id=tmp_path / "8000", no_dist=True)
    with pytest.raises(CheckpointError) as caught:
        build_encoder(weights=tmp_path / "8000")
    command = caught.value.hint.partition("python ")[2].replace("FILE.pth", str(tmp_path / "x.pth"))
    subprocess.run([sys.executable, *command.split()], check=True)
    state = read_weights(tmp_path / "x.pth").state
    assert all(torch.equal(state[name], timm_state[name]) for name in timm_state)


def test_grey_patches_are_refused_by_name(timm_state, tmp_path):
    name = "patch_embed.proj.weight"
    for channels in (1, 4):
        state = to_meta(timm_state) | {name: torch.ones(WIDTH, channels, PATCH, PATCH)}
        torch.save(state, tmp_path / "grey.pth")
        for arch in (None, "tiny"):
            with pytest.raises(CheckpointError, match=f"patch embedding(.|\n)*{channels} channels"):
                build_encoder(arch, tmp_path / "grey.pth")

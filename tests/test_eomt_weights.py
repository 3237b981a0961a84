"""Published EoMT files: each layout gives the same decoder, and what differs is said."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scaleevent.decoders.eomt import EoMT
from scaleevent.decoders.eomt_weights import published_encoder, sort_published
from scaleevent.encoders.encoder import Encoder, build_encoder
from scaleevent.encoders.tensor_files import read_tensors
from scaleevent.encoders.weights import convert_weights
from scaleevent.errors import CheckpointError


def tiny(**options) -> EoMT:
    return EoMT(build_encoder("tiny"), classes=3, **options)


def own_to_published(own: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Head weights under a publisher's names."""
    if layout in ("tue-mps", "scaleevent"):
        prefix = "network." if layout == "tue-mps" else "module."
        return {prefix + name: tensor for name, tensor in own.items()}
    if layout == "lightly-train":
        return {"model." + n.replace("q.weight", "queries.weight"): t for n, t in own.items()}
    names = {"q.": "query.", "class_head.": "class_predictor.", "upscale.": "upscale_block.block."}
    names |= {f"mask_head.{2 * i}.": f"mask_head.fc{i + 1}." for i in range(3)}
    published = {}
    for name, tensor in own.items():
        for ours, theirs in names.items():
            name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
        published[name.replace(".norm.", ".layernorm2d.")] = tensor
    return published


def encoder_to_published(state: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """timm's encoder weights under a publisher's names."""
    published = {}
    for name, tensor in state.items():
        if layout in ("lightly-train", "scaleevent"):  # Meta's names
            prefix = "model.backbone." if layout == "lightly-train" else "module.encoder."
            name = name.replace("reg_token", "storage_tokens")
            name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            published[prefix + name] = tensor
            continue
        for ours, theirs in {
            "patch_embed.proj": "embeddings.patch_embeddings",
            "cls_token": "embeddings.cls_token",
            "reg_token": "embeddings.register_tokens",
            "attn.proj": "attention.o_proj",
            "gamma_1": "layer_scale1.lambda1",
            "gamma_2": "layer_scale2.lambda1",
            "mlp.fc1": "mlp.up_proj",
            "mlp.fc2": "mlp.down_proj",
        }.items():
            name = name.replace(ours, theirs)
        if layout == "huggingface":
            name = name.replace("blocks.", "layers.")
            name = name.replace("norm.", "layernorm.") if name.startswith("norm.") else name
        else:
            name = "network.encoder.backbone." + name.replace("embeddings.", "patch_embed.", 1)
        if name.endswith("attn.qkv.weight"):
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                published[name.replace("attn.qkv", f"attention.{part}_proj")] = third.clone()
        else:
            published[name] = tensor
    return published


EXTRAS = {
    "tue-mps": [
        "network.attn_mask_probs",
        "network.encoder.pixel_mean",
        "network.encoder.pixel_std",
        "criterion.empty_weight",
    ],
    "lightly-train": ["criterion.empty_weight"],
    "huggingface": ["attn_mask_probs", "criterion.empty_weight"],
    "scaleevent": ["module.attn_mask_probs"],
}


def published_file(decoder: EoMT, layout: str, folder: Path) -> Path:
    """A file as its makers would have written it, with all weights of the decoder."""
    state = encoder_to_published(decoder.encoder.vit.state_dict(), layout)
    state |= own_to_published(decoder.own_state(), layout)
    state |= {name: torch.rand(3) for name in EXTRAS[layout]}
    path = folder / "weights"
    match layout:
        case "tue-mps":  # a Lightning checkpoint
            torch.save({"state_dict": state, "epoch": 3}, path)
        case "lightly-train":
            about = {"model_class_path": "...", "model_init_args": {"num_queries": 100}}
            torch.save({"train_model": state, **about}, path)
        case "huggingface":
            save_file(state, path)
        case "scaleevent":
            torch.save(state, path)
    return path


@pytest.mark.parametrize("layout", EXTRAS)
def test_published_layouts(layout, tmp_path):
    source, copy = tiny(), EoMT(build_encoder("tiny"), classes=3)
    tensors, _ = read_tensors(published_file(source, layout, tmp_path))
    loaded = copy.load_published(tensors)
    assert loaded.layout == layout and not loaded.fresh and not loaded.notes
    assert set(loaded.loaded) == set(source.own_state())
    assert set(EXTRAS[layout]) <= set(loaded.unused)
    assert len(loaded.loaded) + len(loaded.unused) == len(tensors)
    copy.encoder.load(convert_weights(published_encoder(tensors)).state)
    for name, value in source.state_dict().items():
        assert torch.equal(copy.state_dict()[name], value), name


def test_compiled_models_have_longer_keys(tmp_path):
    tensors, _ = read_tensors(published_file(tiny(), "tue-mps", tmp_path))
    tensors = {name.replace("network.", "network._orig_mod."): t for name, t in tensors.items()}
    assert not tiny().load_published(tensors).fresh


def test_other_classes_and_queries_are_said():
    source = own_to_published(tiny(queries=7).own_state(), "tue-mps")
    other = EoMT(build_encoder("tiny"), classes=11, queries=5)
    start = other.class_head.weight.clone()
    loaded = other.load_published(source)
    assert loaded.fresh == ("class_head.bias", "class_head.weight")
    assert loaded.unused == ("network.class_head.bias", "network.class_head.weight")
    assert loaded.notes == (
        "class head re-initialised: 3 -> 11 classes",
        "queries: 7 -> 5, first kept",
    )
    assert torch.equal(other.q.weight, source["network.q.weight"][:5])
    assert torch.equal(other.class_head.weight, start)
    more = tiny(queries=9)
    assert more.load_published(source).notes == ("queries: 7 -> 9, repeated",)
    assert torch.equal(more.q.weight[7:], source["network.q.weight"][:2])


def test_a_wide_head_on_a_narrow_encoder():
    """As the authors put the head of ViT-L on ViT-S and B, then train and save it."""
    wide = {"embed_dim": 128, "depth": 2, "num_heads": 4, "patch_size": 8}
    source = EoMT(Encoder({"name": "vit_small_patch16_dinov3", "kwargs": wide}), classes=3)
    decoder = tiny(mode="scaleevent", width=128)
    loaded = decoder.load_published(own_to_published(source.own_state(), "lightly-train"))
    assert loaded.fresh == ("transfer.bias", "transfer.weight")
    assert loaded.notes == (
        "transfer, from 96 to 128 channels, starts fresh",
        "queries keep the first 96 of 128 channels",
    )
    assert torch.equal(decoder.q.weight, source.q.weight[:, :96])
    assert decoder.transfer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    again = tiny(mode="scaleevent", width=128)
    saved = again.load_published(own_to_published(decoder.own_state(), "scaleevent"))
    assert not saved.fresh and not saved.notes


def test_missing_unexpected_and_misshapen_keys_are_all_named():
    state = own_to_published(tiny().own_state(), "tue-mps")
    del state["network.mask_head.0.weight"], state["network.class_head.bias"]
    state["network.upscale.7.norm.bias"] = torch.zeros(96)
    state["network.mask_head.2.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as problem:
        tiny().load_published(state, "some.bin")
    for part in ("mask_head.0.weight", "class_head.bias", "upscale.7.norm.bias", "mask_head.2.bias",
                 "some.bin"):  # fmt: skip
        assert part in str(problem.value)
    with pytest.raises(CheckpointError, match=r"network\.strange, network\.stranger"):
        sort_published(state | {"network.strange": state["network.q.weight"],
                                "network.stranger": state["network.q.weight"]})  # fmt: skip
    with pytest.raises(CheckpointError, match="not the weights of an EoMT model"):
        tiny().load_published({"depth_head.weight": torch.zeros(1)})


def test_delta_files_need_their_base():
    source, base = tiny(), build_encoder("tiny")
    tuned = {n: t + 1e-3 * torch.randn_like(t) for n, t in base.vit.state_dict().items()}
    start = base.vit.state_dict()
    delta = encoder_to_published({n: tuned[n] - start[n] for n in start}, "tue-mps")
    delta |= own_to_published(source.own_state(), "tue-mps")
    whole = encoder_to_published(tuned, "tue-mps")
    whole |= own_to_published(source.own_state(), "tue-mps")

    with pytest.raises(CheckpointError, match="differences to an encoder"):
        published_encoder(delta)
    for tensors in (delta, whole):
        state = convert_weights(published_encoder(tensors, base=start)).state
        for name, value in tuned.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-6)
    assert published_encoder(delta, delta=False).keys() == published_encoder(whole).keys()
    other = {n: t for n, t in build_encoder("tiny").vit.state_dict().items() if "blocks.3" not in n}
    with pytest.raises(CheckpointError, match="another encoder"):
        published_encoder(delta, base=other, delta=True)
    loaded = tiny().load_published(delta)
    assert not loaded.fresh  # the head is not a difference

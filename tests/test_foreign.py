"""Task models of others: scored from files in their names, or refused with what is missing."""

import json

import numpy as np
import pytest
import torch
from test_end_to_end import call
from test_eomt_weights import encoder_to_published, own_to_published
from test_weights import to_meta

from scaleevent.benchmarks.evaluation import evaluate
from scaleevent.benchmarks.registry import BENCHMARKS
from scaleevent.benchmarks.samples import LabelledSamples, benchmark_split
from scaleevent.checkpoint import save_task
from scaleevent.decoders.dpt import DPT
from scaleevent.decoders.eomt import EoMT
from scaleevent.decoders.sea_raft import SeaRaft
from scaleevent.encoders.dinov2 import dinov2_encoder
from scaleevent.encoders.encoder import ARCHS, Encoder
from scaleevent.encoders.provenance import AUTHORS
from scaleevent.errors import CheckpointError, ConfigError
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.store import PairStore
from scaleevent.system.ranks import ranks

K = BENCHMARKS["street-semantic"].task.decoder_settings["classes"]
DINOV3 = ARCHS["tiny"]["name"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small street store that has the window after."""
    folder = tmp_path_factory.mktemp("foreign")
    call(f"prepare street -o {folder / 'pairs'} --scenes 8 --size 32x48 --after")
    return folder


def random_encoder(stretch: float = 1.0, **sizes: int) -> Encoder:
    """A small DINOv3 with weights whose features differ from place to place."""
    torch.manual_seed(0)
    spec = {"name": DINOV3, "kwargs": ARCHS["tiny"]["kwargs"] | sizes}
    encoder = Encoder(spec)
    for name, parameter in encoder.named_parameters():
        torch.nn.init.normal_(parameter, "norm" in name and name.endswith("weight"), 0.2)
    encoder.vit.rope.periods.mul_(stretch)
    return encoder


def shaken(decoder):
    """The decoder with random weights of a size that predictions show."""
    torch.manual_seed(1)
    own = {n: p for n, p in decoder.named_parameters() if not n.startswith("encoder.")}
    for name, parameter in own.items():
        if parameter.ndim == 1:
            torch.nn.init.constant_(parameter, name.endswith("weight"))
        elif parameter.requires_grad:
            wide = name in ("q.weight", "class_head.weight")
            torch.nn.init.normal_(parameter, std=1.0 if wide else 0.2)
    return decoder.eval()


def authors_encoder(encoder: Encoder) -> dict[str, torch.Tensor]:
    """Meta's names, and the buffers that Meta's class saves."""
    state = to_meta(encoder.vit.state_dict())
    return state | {"rope_embed.periods": encoder.vit.rope.periods.clone()}


def evaluated(place, capsys, benchmark, path, rest="", code=0):
    """The JSON report of `eval`; its error where it fails."""
    capsys.readouterr()
    call(f"eval {benchmark} {path} --data {place / 'pairs'} --json {rest}", code)
    told = capsys.readouterr()
    return told.err if code else json.loads(told.out)


def same_as_ours(place, capsys, benchmark, path, decoder, normaliser, rest, size=(32, 48)):
    """The report of a foreign file, which scores as the network that was written to it."""
    settings = InputSettings(*size, decoder.encoder.patch, 3, normaliser, 0.05)
    samples = LabelledSamples([PairStore(place / "pairs")], BENCHMARKS[benchmark].task, settings)
    test = benchmark_split(samples).test.tolist()
    with ranks("cpu") as alone:
        expected = evaluate(decoder, samples, test, alone).result
    report = evaluated(place, capsys, benchmark, path, rest)
    assert report["metrics"] == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert report["input"]["normaliser"] == normaliser
    unverified = [note for note in report["notes"] if note.startswith("unverified: ")]
    assert len(unverified) == len(report["foreign"]["unverified"]) >= 2
    return report


def write_authors_eomt(path, classes=K, **changes):
    """What transfer_*_eomt.py saves of a segmentor narrower than its head."""
    decoder = shaken(EoMT(random_encoder(1.5), classes, queries=12, blocks=2, mode="scaleevent",
                          width=128))  # fmt: skip
    state = {f"module.{name}": value for name, value in decoder.own_state().items()}
    state |= {f"module.encoder.{n}": t for n, t in authors_encoder(decoder.encoder).items()}
    state["module.attn_mask_probs"] = torch.ones(2)
    torch.save({k: v for k, v in (state | changes).items() if v is not None}, path)
    return decoder


def test_the_authors_segmentor(place, capsys):
    path = place / "EoMT_ViTT_Segmentor_EP50.pth"
    decoder = write_authors_eomt(path)
    report = same_as_ours(
        place, capsys, "street-semantic", path, decoder, "minmax8", "--size 32x48"
    )
    assert report["foreign"]["origin"] == "EoMT, zhiwen-xdu/ScaleEvent at e3d2083"
    assert any(note.startswith(f"pretraining data: {AUTHORS}") for note in report["notes"])
    assert "unverified: the order of its classes is the benchmark's" in report["notes"]
    assert len(report["checkpoint"]["sha256"]) == 64
    other = evaluated(place, capsys, "street-semantic", path, "--size 32x48 --normaliser minmax")
    assert other["input"]["normaliser"] == "minmax"


@pytest.mark.parametrize("wrapped", ["module.", ""])
def test_the_authors_depth_model(place, capsys, wrapped):
    decoder = shaken(DPT(random_encoder(1.5), 40.0))
    state = {f"{wrapped}depth_head.{name}": v for name, v in decoder.own_state().items()}
    state |= {f"{wrapped}encoder.{n}": t for n, t in authors_encoder(decoder.encoder).items()}
    path = place / f"DAV2_ViTT_{len(wrapped)}.pth"
    torch.save(state, path)
    rest = "--size 32x48 --decoder-option max_depth=40"
    report = same_as_ours(place, capsys, "street-depth", path, decoder, "minmax8", rest)
    assert report["foreign"]["origin"] == "depth, zhiwen-xdu/ScaleEvent at e3d2083"
    plain = evaluated(place, capsys, "street-depth", path, "--size 32x48")
    assert any("depth ends at 80 m" in note for note in plain["notes"])
    assert plain["metrics"] != report["metrics"]


def dinov2_state(width=96, depth=4, side=5, patch=14) -> dict[str, torch.Tensor]:
    """Random weights under the names of Depth Anything's `pretrained`."""
    block = {"attn.qkv": (3 * width, width), "attn.proj": (width, width),
             "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}  # fmt: skip
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + side**2, width),
              "mask_token": (1, width), "patch_embed.proj.weight": (width, 3, patch, patch),
              "patch_embed.proj.bias": (width,)}  # fmt: skip
    for i in range(depth):
        for name, shape in block.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma",
                     "ls2.gamma"):  # fmt: skip
            shapes[f"blocks.{i}.{name}"] = (width,)
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    random = torch.Generator().manual_seed(3)
    return {n: 0.2 * torch.randn(shape, generator=random) for n, shape in shapes.items()}


def test_depth_anything_v2(place, capsys):
    state = dinov2_state()
    decoder = shaken(DPT(dinov2_encoder(state, (42, 56)), 20.0))
    published = {f"pretrained.{name}": value for name, value in state.items()}
    published |= {f"depth_head.{name}": value for name, value in decoder.own_state().items()}
    path = place / "depth_anything_v2_metric_hypersim_vits.pth"
    torch.save(published, path)
    report = same_as_ours(
        place, capsys, "street-depth", path, decoder, "minmax", "--size 42x56", (42, 56)
    )
    assert report["foreign"]["origin"] == "depth, DepthAnything/Depth-Anything-V2"
    assert any("depth ends at 20 m" in note for note in report["notes"])
    assert "pretraining data: unknown, so is whether they hold test recordings" in report["notes"]
    size = evaluated(place, capsys, "street-depth", path)["input"]
    assert (size["height"], size["width"]) == (98, 126)  # the benchmark's 96x128, in patches
    relative = place / "depth_anything_v2_vits.pth"
    relative.write_bytes(path.read_bytes())
    assert "gives no metres" in evaluated(place, capsys, "street-depth", relative, code=3)


def cubic(x: float) -> float:
    """The kernel of bicubic interpolation, a = -0.75."""
    x, a = abs(x), -0.75
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_positions_are_resampled_as_published():
    """Loop over every cell: source = (i + 0.5) side / (cells + 0.1) - 0.5, borders repeated."""
    side, grid = 5, (3, 8)
    state = dinov2_state(side=side)
    found = dinov2_encoder(state, (14 * grid[0], 14 * grid[1])).vit.pos_embed[0].detach().numpy()
    given = state["pos_embed"][0].numpy().astype(np.float64)
    assert np.array_equal(found[0], given[0].astype(np.float32))
    weights = []
    for cells in grid:
        matrix = np.zeros((cells, side))
        for i in range(cells):
            source = (i + 0.5) * side / (cells + 0.1) - 0.5
            for tap in range(int(np.floor(source)) - 1, int(np.floor(source)) + 3):
                matrix[i, min(max(tap, 0), side - 1)] += cubic(source - tap)
        weights.append(matrix)
    table = given[1:].reshape(side, side, -1)
    expected = np.einsum("ri,cj,ijd->rcd", *weights, table).reshape(-1, given.shape[1])
    assert np.abs(found[1:] - expected).max() < 1e-5
    with pytest.raises(ConfigError):
        dinov2_encoder(state, (40, 56))
    with pytest.raises(CheckpointError, match="no DINOv2 encoder"):
        dinov2_encoder({"cls_token": torch.zeros(1)}, (42, 56))


@pytest.mark.parametrize("delta", [False, True])
def test_upstream_eomt(place, capsys, delta):
    decoder = shaken(EoMT(random_encoder(embed_dim=128, num_heads=2), K, queries=12, blocks=3))
    base = {name: torch.randn_like(v) for name, v in decoder.encoder.vit.state_dict().items()}
    stored = decoder.encoder.vit.state_dict()
    if delta:
        stored = {name: 1e-3 * value for name, value in stored.items()}
    state = encoder_to_published(stored, "tue-mps")
    state |= own_to_published(decoder.own_state(), "tue-mps")
    state |= {"network.attn_mask_probs": torch.zeros(3), "criterion.empty_weight": torch.ones(K)}
    path, start = place / f"pytorch_model{delta}.bin", place / "dinov3.pth"
    torch.save(state, path)
    torch.save(base, start)
    rest = "--size 32x48"
    if delta:
        told = evaluated(place, capsys, "street-semantic", path, rest, code=3)
        assert "--encoder-weights FILE" in told
        rest += f" --encoder-weights {start}"
        decoder.encoder.load({name: base[name] + stored[name] for name in base})
    report = same_as_ours(place, capsys, "street-semantic", path, decoder, "minmax", rest)
    assert report["foreign"]["origin"] == "EoMT, tue-mps"


def test_sea_raft(place, capsys):
    decoder = SeaRaft(random_encoder(), "S", 2, fuse=False).eval()
    path = place / "Tartan-C-T-TSKH-spring540x960-S.pth"
    torch.save(decoder.own_state(), path)
    rest = "--size 32x48 --decoder-option iters=2"
    report = same_as_ours(place, capsys, "street-flow", path, decoder, "minmax", rest)
    assert report["foreign"]["origin"] == "princeton-vl/SEA-RAFT S"
    without = {n: v for n, v in decoder.own_state().items() if "layer2.1" not in n}
    torch.save(without, path)
    told = evaluated(place, capsys, "street-flow", path, rest, code=3)
    assert "SEA-RAFT of no published size" in told


def test_what_is_not_whole_or_does_not_fit_is_refused(place, capsys):
    whole, other = place / "whole.pth", place / "other.pth"
    write_authors_eomt(whole)
    state = torch.load(whole, weights_only=True)

    def refused(changes, rest="--size 32x48", code=3, benchmark="street-semantic"):
        torch.save({k: v for k, v in (state | changes).items() if v is not None}, other)
        return evaluated(place, capsys, benchmark, other, rest, code)

    told = refused(
        {"module.class_head.weight": torch.ones(4, 128), "module.class_head.bias": torch.ones(4)},
        code=2,
    )
    assert "other classes" in told and "found: 3" in told
    assert "no class head" in refused({"module.class_head.weight": None})
    assert "mask_head.2.bias" in refused({"module.mask_head.2.bias": None})
    assert "without transfer" in refused(
        {"module.transfer.weight": None, "module.transfer.bias": None}
    )
    assert "blocks.1.norm1.weight" in refused({"module.encoder.blocks.1.norm1.weight": None})
    assert "surplus" in refused({"module.surplus": torch.ones(1)})
    assert "another task" in refused({}, code=2, benchmark="street-depth")
    assert "does not leave this open" in refused({}, "--decoder-option iters=3", 2)
    assert "no such option" in refused({}, "--decoder-option depth=3", 2)
    assert "multiples of 8" in refused({}, "--size 33x48", 2)
    encoder = place / "encoder.pth"
    torch.save({k: v for k, v in state.items() if ".encoder." in k}, encoder)
    told = evaluated(place, capsys, "street-semantic", encoder, code=3)
    assert "neither a task model of ours" in told and "scaleevent probe street-semantic" in told
    head = place / "head.pth"
    torch.save({f"depth_head.{n}": v for n, v in DPT(random_encoder()).own_state().items()}, head)
    assert "patch embedding" in evaluated(place, capsys, "street-depth", head, code=3)


def test_our_checkpoints_say_themselves_what_their_input_is(place, capsys):
    decoder = EoMT(random_encoder(), K)
    decoder.encoder.input = InputSettings(32, 48, 8)
    save_task(place / "task.safetensors", decoder, {})
    for rest in ("--size 32x48", "--normaliser none", "--decoder-option iters=3"):
        told = evaluated(place, capsys, "street-semantic", place / "task.safetensors", rest, 2)
        assert "only for files of other origins" in told and rest.split()[0] in told

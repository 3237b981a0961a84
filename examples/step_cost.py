"""Seconds and peak memory of one full optimisation step at 480x640, from a Meta-layout file.

    python examples/step_cost.py [vits vitb vitl]

For every size, in a process of its own: random weights are written as a Meta `.pth`, teacher and
student are built from that file, one street pair is rendered at 480x640, and one step runs:
teacher, student, mask, L1 + IS + CS, backward, clip, AdamW.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from scaleevent.config import PrepareConfig
from scaleevent.datasets import street
from scaleevent.distillation import Distillation
from scaleevent.encoder import ARCHS, Encoder, as_teacher, build_encoder
from scaleevent.inputs import InputSettings
from scaleevent.losses import total
from scaleevent.preparing import write_store
from scaleevent.samples import PairSamples
from scaleevent.store import PairStore


def meta_layout(encoder: Encoder) -> dict[str, torch.Tensor]:
    """Weights of a timm DINOv3 under the names of Meta's files, their zero biases included."""
    names = {"reg_token": "storage_tokens", ".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma"}
    state = {}
    for name, value in encoder.vit.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name] = value
        if name.endswith("attn.qkv.weight"):
            bias = torch.zeros(len(value))
            state |= {
                name.replace("weight", "bias"): bias,
                name.replace("weight", "bias_mask"): bias,
            }
    state["mask_token"] = torch.zeros(1, encoder.width)
    state["rope_embed.periods"] = encoder.vit.rope.periods.clone()
    return state


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def step(arch: str, folder: Path) -> None:
    weights = folder / f"{arch}.pth"
    torch.save(meta_layout(Encoder(ARCHS[arch])), weights)
    teacher = as_teacher(build_encoder(None, weights, keep_periods=True))
    student = build_encoder(None, weights).train()
    scenes = street.sources(PrepareConfig(name="street", scenes=1, size=(480, 640)))
    write_store(scenes, folder / "pairs", {})
    sample = PairSamples([PairStore(folder / "pairs")], InputSettings(480, 640, student.patch))[0]
    batch = {key: value[None] for key, value in sample.items()}
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-6, weight_decay=1e-4)
    before = peak_mb()
    began = time.perf_counter()
    terms, extra = Distillation(teacher, student)(batch)
    loss = total(terms)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 0.1)
    optimizer.step()
    seconds = time.perf_counter() - began
    parts = ", ".join(f"{name} {float(term.detach()):.4f}" for name, term in terms.items())
    print(
        f"{arch}: {sum(p.numel() for p in student.parameters()) / 1e6:.1f} M parameters, "
        f"one step of one pair {seconds:.1f} s on {torch.get_num_threads()} threads, "
        f"peak memory {peak_mb():.0f} MB ({before:.0f} before the step), {parts}, "
        f"active {extra['active']():.0%}",
        flush=True,
    )


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--child":
        with tempfile.TemporaryDirectory() as folder:
            step(sys.argv[2], Path(folder))
        return
    for arch in sys.argv[1:] or ("vits", "vitb", "vitl"):
        subprocess.run([sys.executable, __file__, "--child", arch], check=True)


if __name__ == "__main__":
    main()

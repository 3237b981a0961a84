"""The pairs that `pretrain` trains on: named stores, a folder of stores, or `street`."""

from __future__ import annotations

from collections.abc import Mapping

from scaleevent.benchmarks.leaks import check_pretraining
from scaleevent.commands.street_store import street_store
from scaleevent.config.mix import VIDEOS
from scaleevent.config.pretrain import PretrainConfig
from scaleevent.datasets.video_pairs import VideoPairs
from scaleevent.grids.inputs import InputSettings
from scaleevent.pairs.mixing import Mix, among, joined, keep_tagged, lines, open_sources, section
from scaleevent.pairs.sample_inputs import Input
from scaleevent.pairs.samples import PairSamples
from scaleevent.pairs.splits import Split, split_samples
from scaleevent.pairs.store import PairStore
from scaleevent.system.files import Json
from scaleevent.system.locations import shown
from scaleevent.training.run import Run


def pretraining_origin(cfg: PretrainConfig, quiet: bool) -> Json:
    """Where the pairs are found, for the record, with the test recordings among them if any.

    Raises:
        ConfigError: A store that does not exist, or test recordings that were not asked for.
    """
    folders, origin = cfg.stores
    tests = check_pretraining(folders, cfg.transductive, quiet)
    return {"origin": origin} | ({"transductive": tests} if tests else {})


def pretraining_data(
    cfg: PretrainConfig, settings: InputSettings, inputs: Mapping[str, Input], run: Run
) -> tuple[PairSamples, Split, Mix]:
    """The pairs, what is held out of them, and how the others are drawn.

    Raises:
        ConfigError: A store that does not exist.
        DataError: No pair, none with the tags asked for, or pairs without an image that one needs.
    """
    folders, origin = cfg.stores
    found = ", ".join(map(shown, [*folders, *cfg.videos])) or "street, rendered on first use"
    run.say(f"data: {found}" + (f" (from {origin})" if folders else ""))
    if not folders and not cfg.videos:
        family = cfg.seed_of("world")
        world = {"seed": family} if family else None
        if run.ranks.main:
            street_store(cfg.size, run.quiet, world)
        run.ranks.wait()
        folders = [street_store(cfg.size, True, world)]
    others: dict[str, PairStore] = {}
    if cfg.videos:
        others[VIDEOS] = videos = VideoPairs(cfg.filming, max(cfg.size), cfg.seed_of("draws"))
        run.say(videos.described)
    sources, kept = keep_tagged(open_sources(folders, others, run.say), cfg.only)
    samples = PairSamples([source.store for source in sources], settings, inputs)
    if "image" in inputs:
        samples.check_images()
    chosen = joined(sources)
    split = split_samples(samples, cfg.validation, cfg.seed_of("split"), chosen)
    dropped = f", {split.dropped} overlapping dropped" if split.dropped else ""
    run.say(
        f"{len(chosen):,} pairs{kept}, {len(split.train):,} to train, "
        f"{len(split.validation):,} held out{dropped}; {cfg.describe_seeds()}"
    )
    if split.shared:
        run.say("warning: all training windows overlap held-out ones, so events are on both sides")
    mix = Mix(among(sources, split.train), cfg.weights, cfg.sampling)
    if run.ranks.main:  # it reads some pairs of every source
        run.tell(section(mix.facts), lines(mix.facts))
    return samples, split, mix

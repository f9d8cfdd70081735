"""What `python -m benchmarks.speed` says of its numbers: ratios first."""

from collections.abc import Callable
from typing import Any

from benchmarks.variants import TITLES

Say = Callable[[str], None]


def describe(result: dict[str, Any], say: Say) -> None:
    """Say what `run_benchmark` returns."""
    for part in (_ratios, _rates, _parts, _scaling, _pieces, _roofline, _where):
        part(result, say)


def _ratios(result: dict[str, Any], say: Say) -> None:
    settings = result["settings"]
    count, stored = len(settings["mentors"]), result["scaling"]["banked"]
    mentors, samples, classes = settings["loss"]
    shape = f"{mentors} mentors, {samples} x {classes} logits"
    rows = (
        ("engine_vs_textbook", "this engine / textbook loop", "x"),
        ("trainer_overhead_percent", "time that the Trainer adds to the engine's plain loop", "%"),
        ("engine_vs_alone", f"this engine, with {count} mentors / student alone", "x"),
        ("banked_vs_alone", "the same from the bank / student alone", "x"),
        ("alone_vs_textbook_alone", "student alone: this engine / textbook loop", "x"),
        ("banked_most_vs_least", f"time from the bank, {max(stored)} / {min(stored)} mentors", "x"),
        ("loss_percent_of_student", f"time of the loss / student ({shape})", "%"),
        ("bank_vs_fastest_student", f"reading the bank / {result['bank']['fastest']} learns", "x"),
    )
    say(f"ratios of images a second, {_rounds(result)} (least to greatest round; goal on 2 cores):")
    for name, text, unit in rows:
        sign = "+" if name == "trainer_overhead_percent" else ""
        low, high = (f"{value:{sign}.2f}" for value in result["spans"][name])
        value = f"{result['ratios'][name]:{sign}8.2f} {unit}"
        goal = _goal(result["goals"].get(name, {}))
        say(f"  {text:58s}{value}  ({low} to {high}{goal})")


def _goal(goal: dict[str, float]) -> str:
    signs = {"at_least": ">=", "at_most": "<="}
    return "".join(f"; goal {signs[kind]} {value:g}" for kind, value in goal.items())


def _rounds(result: dict[str, Any]) -> str:
    settings = result["settings"]
    return f"medians of {settings['rounds']} rounds of {settings['steps']} steps"


def _rates(result: dict[str, Any], say: Say) -> None:
    say(f"images a second, {_rounds(result)}:")
    for name, value in result["images_per_second"].items():
        say(f"  {TITLES[name]:58s}{value:8.0f}")


def _parts(result: dict[str, Any], say: Say) -> None:
    steps = result["settings"]["steps"]
    say(
        f"share of the engine's step (the student with all gradients and the update), medians of"
        f" {steps} steps:"
    )
    for name, share in result["shares"].items():
        say(f"  {name:58s}{100 * share:8.1f} %  ({result['milliseconds'][name]:.1f} ms)")


def _scaling(result: dict[str, Any], say: Say) -> None:
    say("time of a step / of the student alone, by the number of mentors:")
    counts = result["scaling"]["live"]
    say(f"  {'mentors':18s}" + "".join(f"{count:8d}" for count in counts))
    for kind, row in result["scaling"].items():
        cells = (f"{row[count]:8.2f}" if count in row else f"{'':8s}" for count in counts)
        say(f"  {kind:18s}" + "".join(cells))


def _pieces(result: dict[str, Any], say: Say) -> None:
    settings, loss, bank = result["settings"], result["loss"], result["bank"]
    say(
        f"the loss, forward and backward: {loss['loss']:.2f} ms; a step of {settings['student']} in"
        f" batches of {settings['loss'][1]}: {loss['student']:.1f} ms"
    )
    rates = dict(bank["samples_per_second"])
    read = f"{len(settings['mentors'])} mentors, float16, {settings['stored']} samples"
    learn = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items() if name != "bank")
    say(f"samples a second: the bank gives {rates['bank']:.0f} ({read}); students take: {learn}")


def _roofline(result: dict[str, Any], say: Say) -> None:
    roofline = result["roofline"]
    say(
        f"operations a second, of {roofline['peak'] / 1e9:.0f} G of this machine's fastest matrix"
        f" product in {roofline['precision']}:"
    )
    for name, row in roofline["networks"].items():
        share = 100 * row["rate"] / roofline["peak"]
        say(f"  {name:58s}{share:8.1f} %  ({row['rate'] / 1e9:.1f} G)")


def _where(result: dict[str, Any], say: Say) -> None:
    settings, where = result["settings"], result["environment"]
    say(f"peak memory of the benchmark: {result['peak_memory'] / 1e9:.2f} GB")
    say(
        f"{settings['student']} from {', '.join(settings['mentors'])}; batch of "
        f"{settings['batch_size']}, random weights and images of 32 x 32 in memory; mentors"
        f" {'folded and compiled' if settings['tuned'] else 'as they are'}"
    )
    load = f", load average {where['load_before']} before" if "load_before" in where else ""
    say(
        f"{where['hardware']} ({where['device']}), {where['threads']} threads, "
        f"torch {where['packages']['torch']}, lightning {where['packages']['lightning']}{load}"
    )

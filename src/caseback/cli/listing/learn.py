"""`caseback organisms learn`: a discrete Transformer learned on a compiled organism's task, printed as a program."""

from typing import Annotated, Any

import typer

from caseback.cli.answer import answer, say_written
from caseback.cli.loading import quiet
from caseback.cli.options import Json, MaxLength, ProgramParts, Save, Seed, Steps
from caseback.cli.with_options import with_options
from caseback.jobs.whole_file import whole_file


@with_options
def learn(
    name: Annotated[str, typer.Argument(help="A compiled organism, such as induction: its answers are learned.")],
    alphabet: Annotated[
        str | None, typer.Option(help="Its words, letter by letter; by default the organism's.")
    ] = None,
    length: MaxLength = MaxLength().worded(max_length="Words of a prompt; by default the organism's."),
    parts: ProgramParts = ProgramParts(),
    restarts: Annotated[int, typer.Option(min=4, help="Programs learned side by side.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="How often parts of the best are learned anew, at most.")] = 8,
    steps: Steps = Steps(200).worded(steps="Steps of a round."),
    seed: Seed = Seed().worded(seed="What the prompts and the first choices follow from."),
    save: Save = Save().worded(save="Write the program to this file, as Python that compiles it."),
    output: Json = Json(),
) -> None:
    """Learn a discrete Transformer on a compiled organism's task: the program, how often it is right, its circuit."""
    with quiet():
        from caseback.organisms.compiled import build
        from caseback.organisms.learned import learn_program

        sizes: dict[str, Any] = {"alphabet": alphabet, "max_length": length.max_length}
        task = build(name, **{key: value for key, value in sizes.items() if value is not None})
        learned = learn_program(
            task.function,
            task.inputs,
            task.max_length,
            layers=parts.layers,
            heads=parts.heads,
            counters=parts.counters,
            lookups=parts.lookups,
            restarts=restarts,
            rounds=rounds,
            steps=steps.steps or 200,
            seed=seed.seed,
            progress=True,
        )
        circuit = sorted(map(str, learned.compile().circuit.edges))
    if save.save is not None:
        with whole_file(save.save) as draft:
            draft.write_text(learned.script, encoding="utf-8")
    rows = {
        "organism": name,
        "alphabet": list(learned.alphabet),
        "max_length": learned.max_length,
        "accuracy": learned.accuracy,
        "chance": learned.chance,
        "rounds": learned.rounds,
        "program": learned.source,
        "circuit": circuit,
        "circuit_of_organism": sorted(map(str, task.circuit.edges)),
    }

    def text() -> None:
        typer.echo(learned.source)
        typer.echo(
            f"\n{learned.accuracy:.2%} of held-out answers right ({learned.chance:.0%} by the current word alone), "
            f"after {len(learned.rounds)} round{'s' * (len(learned.rounds) > 1)}."
        )
        typer.echo("Its circuit, compiled: " + ", ".join(circuit))

    answer(output, rows, text=text)
    if save.save is not None:
        say_written(save.save)

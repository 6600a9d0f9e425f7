"""Every rule of lint: its stable code, how grave it is, and what it is about. Data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Rule:
    """``code`` never changes its meaning; ``about`` is one sentence, for SARIF and docs/lint.md."""

    code: str
    name: str
    severity: Severity
    about: str


def _table(*rows: tuple[str, str, Severity, str]) -> dict[str, Rule]:
    return {row[1]: Rule(*row) for row in rows}


RULES = _table(
    # what was checked, and against what
    ("LMN001", "engine-not-checked", "note", "An engine that lint finds, but whose flags it does not know."),
    ("LMN002", "nearest-version", "note", "No flags are known for this very release: the nearest known one is used."),
    ("LMN003", "version-assumed", "note", "Nothing says which release will run: the newest known one is used."),
    ("LMN004", "version-open", "warning", "A requirement with >= lets the release change under the command."),
    ("LMN005", "unreadable", "error", "The document cannot be read as what it is."),
    # shell
    ("LMN101", "ends-early", "error", "A backslash that a space follows continues nothing: the command ends there."),
    ("LMN102", "comment-in-command", "error", "A comment between continued lines ends the command."),
    ("LMN103", "missing-continuation", "error", "The next line begins with a flag, but this line does not end with a backslash."),
    ("LMN104", "unbalanced-quote", "error", "A quote, brace or backtick that nothing closes."),
    ("LMN105", "unended-heredoc", "error", "A heredoc whose end is nowhere."),
    ("LMN106", "carriage-return", "error", "A Windows line end after a backslash: the shell continues nothing."),
    ("LMN107", "requirement-redirects", "error", "An unquoted >= or <= of a requirement is a redirection to the shell."),
    ("LMN108", "requirement-as-command", "error", "A requirement by itself runs as a command and writes a file."),
    ("LMN109", "placeholder", "warning", "A <PLACEHOLDER> is left in a script: the shell reads redirections."),
    # flags
    ("LMN201", "unknown-flag", "error", "No known release of the engine has this flag."),
    ("LMN202", "removed-flag", "error", "An earlier release had this flag; this one refuses it."),
    ("LMN203", "newer-flag", "error", "Only a later release has this flag; this one refuses it."),
    ("LMN204", "wrong-type", "error", "The value is not what the flag takes."),
    ("LMN205", "not-a-choice", "error", "The value is not among the flag's choices."),
    ("LMN206", "missing-value", "error", "The flag needs a value."),
    ("LMN207", "unwanted-value", "error", "The flag takes no value."),
    ("LMN208", "prefix", "warning", "argparse accepts the beginning of a flag, until another one begins alike."),
    ("LMN209", "ambiguous-prefix", "error", "Several flags begin like this."),
    ("LMN210", "deprecated", "warning", "The flag still works, and will be removed."),
    ("LMN211", "stray-word", "error", "A word that belongs to no flag."),
    ("LMN212", "gone-in-newest", "warning", "The requirement allows releases that refuse this flag."),
    ("LMN213", "given-twice", "warning", "The flag is given twice: the last one counts."),
    # model and layout
    ("LMN301", "experts-without-moe", "error", "Expert parallelism of a model that has no experts."),
    ("LMN302", "layout", "error", "The model cannot be divided this way."),
    ("LMN303", "context-too-long", "error", "A context beyond what the model was trained for."),
    ("LMN304", "too-many-gpus", "error", "The layout needs more GPUs than there are."),
    ("LMN305", "nodes", "error", "The layout and the nodes do not go together."),
    ("LMN306", "moved-model", "warning", "The model is published under another name."),
    ("LMN307", "wrong-parser", "error", "The tool or reasoning parser is another model family's."),
    ("LMN308", "missing-partner", "error", "A flag that does nothing, or fails, without another one."),
    ("LMN309", "quantization", "error", "The checkpoint is stored in another quantization than the flag says."),
    # memory
    ("LMN401", "memory", "error", "The planner finds that it does not fit."),
    # speed
    ("LMN501", "slow", "warning", "A setting whose cost was measured."),
    # security
    ("LMN601", "open-to-all", "warning", "The engine listens on every interface, and asks for no key."),
    ("LMN602", "key-in-argv", "warning", "A key on a command line can be read by every user of the machine."),
    ("LMN603", "remote-code", "warning", "Code from the hub is run although the engine has this architecture built in."),
    ("LMN604", "ray-dashboard-open", "warning", "Ray's dashboard runs jobs for whoever reaches it."),
    # around the engine
    ("LMN701", "ray-address", "error", "ray:// is for Ray's client port; 6379 is the GCS port, which is written without it."),
    ("LMN702", "ray-exec", "error", "ray exec takes a cluster's YAML file, not an address."),
    ("LMN703", "unknown-variable", "warning", "An environment variable that nothing reads."),
    ("LMN704", "renamed-variable", "warning", "An environment variable that has another name now."),
    ("LMN705", "variable-value", "warning", "A value that the environment variable does not take."),
    ("LMN706", "visible-devices", "error", "Fewer GPUs are visible than the layout uses."),
    ("LMN707", "served-name", "error", "A request beside the command asks for a model by a name that it does not serve."),
    ("LMN708", "no-infiniband", "warning", "InfiniBand is turned off for a model that spans nodes."),
    ("LMN709", "gone-command", "warning", "A command that has another name now."),
    # the engine itself
    ("LMN801", "engine-refuses", "error", "The installed engine's own parser or configuration check refuses."),
)  # fmt: skip
"""By name."""

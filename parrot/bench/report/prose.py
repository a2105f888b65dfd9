"""The page's fixed sentences. Numbers in them are filled in from results."""

HEAD = """\
# Measurements

This page is made from the files in `results/` by `parrot bench report`; nothing in it is typed by hand.
`make bench` measures what can be measured on one machine in some forty minutes, and makes the page anew.
Each row can be measured again by the command beside it. What the commands do is described in
[docs/reference](../docs/reference)."""

APPLICATIONS = """\
Each application is one program, run in two ways: for Parrot, written with semantic variables, so that the
whole graph is submitted before the first token is made; for a base line, as a loop in the client that
sends request after request to an OpenAI-compatible server. Both are made from the same templates: prompts
and the lengths of answers are equal, `ignore_eos` is on, and sampling is greedy. Every run has texts of
its own, so nothing is cached from an earlier run. Sides take turns within one measurement on one machine.
Times are seconds from the program's start (in Parrot, the opening of its session included) to its last
result: the median, and from least to most. The ratio compares run with run; above 1, Parrot is faster."""

TOKENS = """\
What they computed. *Cached* is the part of the prompt tokens for which KV was there, *prefilled* all
tokens that were computed for prompts (in Parrot also those filled ahead of time, for calls whose inputs
were not there yet), *peak KV* the most tokens of KV in use, sampled twice a second. Times are those of
single calls: in Parrot from when their inputs were there, for a base line from when their requests were
sent."""

SERVING = """\
Requests and programs come at times of their own, whether or not the server keeps up. Users' requests are
streamed on both sides. *Goodput* counts users' requests a second that took at most {bound} ms for each
output token, from being sent to their end."""

BASELINES = """\
Servers as they describe themselves. vLLM's defaults have prefix caching and chunked prefill on.
`parrot-completions` is Parrot's own completions API on the same engine: requests one by one, with prefix
caching by blocks of tokens."""

MIGRATION = """\
One application of {calls} calls (a question is rewritten, documents are noted down with it, notes become
findings, findings a report, which is written once more) in five versions, each a program of
[examples/migration](../examples/migration), on one service with one engine. Prompts and the lengths of
answers are equal, every run has texts of its own, and the versions take turns. *Requests* are what the
client sent, *round trips* the most of them that waited for one another, *prefilled* the tokens that the
engine computed for prompts. *Gain* is the first version's median over this one's. {service}; {files}. The
command line is of the file that a row comes from."""

BUSY = """\
The machine was not quiet (load {load}), so seconds and gains are disturbed: they differ more from run to run
than between versions. Requests, round trips and tokens do not depend on it."""

ENGINE = """\
{model}, {engine}; `{file}`. Floors are what this machine's memory and arithmetic allow, measured in the
same run."""

CONTROL = """\
The service runs in a process of its own, with a scripted engine that costs nothing, and is driven over
HTTP by a client in another process; {files}."""

SCALE = """\
A map-reduce over a book of {maps} parts, {chats} chats at a time and {teams} coding teams at a time,
written with the SDK, over HTTP, on {engines} scripted engines that take {faster} times less time than a
model with {prefill} tokens/s of prefill and {step} ms a decode step. *Loop* is how long `GET /healthz`
takes meanwhile, asked from another process. `{file}`"""

SCALE_END = """\
Lost calls: {lost}. KV blocks still held at the end: {blocks}. Memory after the last round: {growth}.
Measured by `{command}`."""

RELIABILITY = """\
Scenarios with real processes, broken on purpose; `{file}`, measured by `make reliability`, and told in full
on the page *Reliability* of the documentation."""

LANGCHAIN = """\
The classic patterns as ordinary LangChain programs: each as it is, a request a call (*eager*), and within
`lazy(…)`, one application graph a run. Both on one service in turn, with {engine}, `{file}`. Every answer has
{max_tokens} tokens, and every run a first message of its own. *Edges* are those of the graph that the service
was given; a pattern without any gains nothing but what is shared. Times are seconds: the median, and from
least to most of {runs} runs. *Gain* compares run with run; above 1, lazy is faster. Measured by
`{command}`."""

SPEED = """\
In virtual time. Seconds are those of one processor; where simulations run together, in a process each,
they are real ones. `{file}`"""

PAPER = """\
Times better than each figure's own base line, as the paper reports it and as the simulator has it with
the scheduler of the service ([how](../docs/explanation/simulator.md)). The paper's base lines share no
prefixes and cap their batches. A point agrees when it is within {tolerance} of the paper's ratio.
Measured by `parrot sim paper`."""

BESIDE = """\
Beside what was measured here. The two are different questions: the paper's base lines are those of 2023
on its hardware; here a modern server with prefix caching runs a small model on a processor."""

FAIR = """\
Equal prompts and lengths; base lines with prefix caching and chunked prefill, and a client that sends
request after request. How many times sooner the application ends in Parrot. Measured by `parrot sim paper
--only fair`."""

SOURCES = """\
*Load* is how many processes wanted a processor in the minute before; well above 0, others disturbed the
figures. A commit with + had changes that were not committed."""

"""Engines in processes of their own: how they end, and what the service then sees."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from parrot.engine import launch
from parrot.engine.launch import decode_config, encode_config, start_here, start_in_process
from parrot.engine.remote import Liveness, RemoteEngine
from parrot.engine.scripted import ScriptedAnswer, ScriptedConfig, ScriptedFault
from parrot.engine.torch.config import TorchConfig
from parrot.errors import ConfigError, EngineError, TooLargeError
from parrot.ports.engine import FillRequest, GenerateRequest, Lost
from parrot.types.ids import ContextId, EngineId, RequestId
from parrot.types.sampling import Sampling

QUICK = Liveness(ping_interval_s=0.1, dead_after_s=0.5, stuck_after_s=0.5)
SLOW = Liveness(ping_interval_s=0.1, dead_after_s=60, stuck_after_s=60)

StartScripted = Callable[..., Awaitable[RemoteEngine]]


@pytest.fixture
async def start() -> AsyncIterator[StartScripted]:
    engines: list[RemoteEngine] = []

    async def begin(config: ScriptedConfig | None = None, *, liveness: Liveness = SLOW) -> RemoteEngine:
        starting = start_in_process(config or ScriptedConfig(), EngineId("e"), liveness=liveness)
        engine = await starting(lambda _phase, _fraction: None)
        assert isinstance(engine, RemoteEngine)
        engines.append(engine)
        return engine

    yield begin
    for engine in engines:
        await engine.close()


def pid_of(engine: RemoteEngine) -> int:
    process = engine._process._process
    assert process is not None
    return process.pid


def request(engine: RemoteEngine, prompt: str, *, context: int = 1, max_tokens: int = 8) -> GenerateRequest:
    return GenerateRequest(
        request_id=RequestId("r"),
        context_id=ContextId(context),
        token_ids=engine.tokenizer.encode(prompt),
        sampling=Sampling(max_tokens=max_tokens, ignore_eos=True),
    )


async def text(engine: RemoteEngine, asked: GenerateRequest) -> str:
    return "".join([chunk.text async for chunk in engine.generate(asked)])


async def loss(engine: RemoteEngine) -> str:
    """Why the engine was lost, as told by its last notice."""
    async with asyncio.timeout(10):
        notices = [notice async for notice in engine.notices()]
    assert isinstance(notices[-1], Lost)
    return notices[-1].reason


async def test_a_killed_process_fails_what_is_under_way_and_is_lost(start: StartScripted) -> None:
    engine = await start(ScriptedConfig(decode_step_s=0.01))
    stream = engine.generate(request(engine, "x", max_tokens=4000))
    filling = asyncio.create_task(engine.fill(_waiting_fill()))
    await anext(stream)
    os.kill(pid_of(engine), signal.SIGKILL)
    with pytest.raises(EngineError) as lost:
        async for _ in stream:
            pass
    with pytest.raises(EngineError):
        await filling
    with pytest.raises(EngineError) as later:
        await text(engine, request(engine, "y", context=3))
    assert lost.value.code == later.value.code == "engine_lost"
    assert "signal 9" in await loss(engine)


async def test_what_is_asked_while_the_end_of_a_process_is_looked_into_was_not_delivered(
    start: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await start()
    process, buried = engine._process, asyncio.Event()
    bury = process._bury

    async def bury_later(reason: str | None) -> None:
        await buried.wait()
        await bury(reason)

    monkeypatch.setattr(process, "_bury", bury_later)
    os.kill(pid_of(engine), signal.SIGKILL)
    await asyncio.shield(process._link.closed)
    # Someone else's sockets have the number now that its own had.
    others = [socket.socketpair() for _ in range(8)]
    asked = asyncio.create_task(text(engine, request(engine, "x")))
    await asyncio.sleep(0)
    buried.set()
    with pytest.raises(EngineError) as lost:
        await asked
    for one, other in others:
        one.close()
        other.close()
    assert (lost.value.code, lost.value.data) == ("engine_lost", {"delivered": False})


async def test_a_process_that_ends_itself_is_lost_with_its_exit_status(start: StartScripted) -> None:
    engine = await start(ScriptedConfig(faults=(ScriptedFault(kind="exit", marker="POISON"),)))
    assert await text(engine, request(engine, "fine", context=2))
    with pytest.raises(EngineError):
        await text(engine, request(engine, "POISON"))
    assert "exit status 86" in await loss(engine)


async def test_a_stopped_process_gives_no_sign_of_life_and_is_killed(start: StartScripted) -> None:
    engine = await start(liveness=QUICK)
    pid = pid_of(engine)
    os.kill(pid, signal.SIGSTOP)
    assert await loss(engine) == "no sign of life for 0.5 s"
    await engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_frozen_process_gives_no_sign_of_life_and_is_killed(start: StartScripted) -> None:
    engine = await start(ScriptedConfig(faults=(ScriptedFault(kind="freeze"),)), liveness=QUICK)
    with pytest.raises(EngineError) as lost:
        await text(engine, request(engine, "x"))
    assert (lost.value.code, await loss(engine)) == ("engine_lost", "no sign of life for 0.5 s")


async def test_an_engine_that_answers_but_takes_no_step_is_killed(start: StartScripted) -> None:
    engine = await start(
        ScriptedConfig(faults=(ScriptedFault(kind="hang"),), decode_step_s=0.001), liveness=QUICK
    )
    with pytest.raises(EngineError) as lost:
        await text(engine, request(engine, "x"))
    assert lost.value.code == "engine_lost"
    assert "no step for 0.5 s" in await loss(engine)


async def test_requests_that_wait_for_their_parent_do_not_make_an_engine_stuck(start: StartScripted) -> None:
    engine = await start(liveness=QUICK)
    await engine.fill(_fill(9, 5))
    waiting = asyncio.create_task(engine.fill(_waiting_fill(parent=9)))
    await asyncio.sleep(1.2)
    assert await text(engine, request(engine, "x", context=3))
    assert not waiting.done()
    waiting.cancel()


async def test_a_service_that_was_slow_itself_does_not_take_its_engines_for_dead(
    start: StartScripted,
) -> None:
    engine = await start(liveness=QUICK)
    await asyncio.to_thread(lambda: None)
    subprocess.run(["/bin/sleep", "1.2"], check=True)
    await asyncio.sleep(0.3)
    assert await text(engine, request(engine, "x"))


async def test_sigterm_ends_the_process_and_ctrl_c_does_not(start: StartScripted) -> None:
    engine = await start()
    os.kill(pid_of(engine), signal.SIGINT)
    assert await text(engine, request(engine, "x"))
    os.kill(pid_of(engine), signal.SIGTERM)
    assert "exit status 0" in await loss(engine)


async def test_closing_ends_the_process_without_a_loss(
    start: StartScripted, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await start()
    pid = pid_of(engine)
    assert await text(engine, request(engine, "x"))
    await engine.close()
    await engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not [notice async for notice in engine.notices() if isinstance(notice, Lost)]
    assert caplog.records == []


async def test_the_text_is_the_same_as_in_this_process(start: StartScripted) -> None:
    config = ScriptedConfig(seed=5, answers=(ScriptedAnswer(pattern="sign", answer="🙂 é"),))
    remote = await start(config)
    here = await start_here(config, EngineId("e"))(lambda _phase, _fraction: None)
    assert here.info == remote.info
    for context, prompt in enumerate(("a sign", "Tell me more", "")):
        asked = request(remote, "q" + prompt, context=context, max_tokens=50)
        assert "".join([chunk.text async for chunk in here.generate(asked)]) == await text(remote, asked)
    await here.close()


async def test_a_request_too_large_to_send_is_refused_and_the_engine_lives(start: StartScripted) -> None:
    engine = await start()
    huge = FillRequest(
        request_id=RequestId("f"), context_id=ContextId(1), token_ids=(50_000_000,) * 14_000_000
    )
    with pytest.raises(TooLargeError):
        await engine.fill(huge)
    assert await text(engine, request(engine, "x"))


async def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    wrong = ScriptedConfig(answers=(ScriptedAnswer(pattern="(", regex=True, answer=""),))
    with pytest.raises(ConfigError) as refused:
        await start_in_process(wrong, EngineId("e"))(lambda _phase, _fraction: None)
    assert "is not RE2" in refused.value.message


async def test_a_process_that_dies_while_starting_is_an_error_with_its_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineError) as died:
        await start_in_process(ScriptedConfig(), EngineId("e"))(lambda _phase, _fraction: None)
    assert died.value.code == "engine_start_failed"
    assert "exit status 1" in died.value.message
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineError) as missing:
        await start_in_process(ScriptedConfig(), EngineId("e"))(lambda _phase, _fraction: None)
    assert missing.value.code == "engine_start_failed"


async def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    before = _children()
    starting = asyncio.create_task(_start_and_forget())
    await asyncio.sleep(0.1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert _children() == before


async def test_without_torch_the_two_install_lines_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda _name: None)
    for begin in (start_here, start_in_process):
        with pytest.raises(ConfigError) as missing:
            await begin(TorchConfig(model_dir="/nowhere"), EngineId("e"))(lambda _phase, _fraction: None)
        assert missing.value.code == "missing_extra"
        assert sum("pip install" in line for line in missing.value.message.splitlines()) == 2


def test_no_process_outlives_its_parent() -> None:
    program = """
import asyncio, os
from parrot.engine.launch import start_in_process
from parrot.engine.scripted import ScriptedConfig
async def main():
    engine = await start_in_process(ScriptedConfig(), "e")(lambda phase, fraction: None)
    print(engine._process._process.pid, flush=True)
    os._exit(3)
asyncio.run(main())
"""
    parent = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert parent.returncode == 3
    assert _ends(int(parent.stdout)), "the engine's process is still there"


@pytest.mark.parametrize(
    "config", [ScriptedConfig(faults=(ScriptedFault(kind="slow"),)), TorchConfig(model_dir="/m")]
)
def test_a_configuration_comes_back_from_its_plain_form(config: ScriptedConfig | TorchConfig) -> None:
    assert decode_config(*encode_config(config)) == config


@pytest.mark.parametrize(
    ("kind", "plain"),
    [("magic", {}), ("scripted", {"seed": "x"}), ("torch", {}), ("scripted", {"num_blocks": 0})],
)
def test_a_plain_form_that_is_wrong_is_a_config_error(kind: str, plain: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        decode_config(kind, plain)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
async def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    starting = start_in_process(TorchConfig(model_dir=str(tmp_path)), EngineId("e"))
    with pytest.raises(ConfigError) as missing:
        await starting(lambda _phase, _fraction: None)
    assert missing.value.code == "bad_model"
    assert str(tmp_path) in missing.value.message


def _fill(context: int, num_tokens: int) -> FillRequest:
    return FillRequest(
        request_id=RequestId("f"), context_id=ContextId(context), token_ids=tuple(range(65, 65 + num_tokens))
    )


def _waiting_fill(parent: int = 1) -> FillRequest:
    from parrot.ports.engine import ContextRef

    return FillRequest(
        request_id=RequestId("f"),
        context_id=ContextId(77),
        token_ids=(65,),
        parent=ContextRef(context_id=ContextId(parent), num_tokens=30_000),
    )


async def _start_and_forget() -> None:
    await start_in_process(ScriptedConfig(), EngineId("e"))(lambda _phase, _fraction: None)
    await asyncio.Event().wait()


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def _ends(pid: int) -> bool:
    """Whether a process that is not ours ends within some seconds."""
    try:
        waiter = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    import select

    try:
        return bool(select.select([waiter], [], [], 10)[0])
    finally:
        os.close(waiter)

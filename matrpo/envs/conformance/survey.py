"""Surveys a task: what its environments do in random steps, and what becomes of it in training."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np

from matrpo.envs.conformance.finding import Finding
from matrpo.envs.conformance.guarded import GuardedEnv
from matrpo.envs.conformance.record import Record, record_steps
from matrpo.envs.conformance.witness import Witness
from matrpo.envs.registry import make_env, task_spec
from matrpo.envs.vector_env import VectorEnv
from matrpo.envs.wrapped.pettingzoo import ParallelEnv, PettingZooEnv
from matrpo.errors import ConfigError, TaskError
from matrpo.spaces import TaskSpec

STEPS = 1000
_REPEATED = 200
"""Steps that are taken twice, with the same seed."""

_LARGE = 100.0
"""Observations beyond this are called large: networks expect numbers of about 1."""


def survey(task: str, num_agents: int | None, steps: int = STEPS) -> Iterator[Finding]:
    """Find out what a task is like; the last finding is `bad` if matrpo cannot train on it.

    First comes what a launch checks before it begins.

    Args:
        task: its name.
        num_agents: N, or None for the task's default.
        steps: random steps to take.
    """
    try:
        spec = task_spec(task, num_agents)
        yield from _of_spaces(spec)
        env = make_env(task, num_agents, 1, seed=0)
        try:
            witness = _watch(env)
            record = record_steps(env, steps, seed=0)
            yield from _of_steps(spec, record, witness)
            yield from _of_abilities(env)
        finally:
            env.close()
        yield from _of_repetition(task, num_agents, min(steps, _REPEATED))
    except (ConfigError, TaskError) as error:
        yield Finding("bad", str(error))


def _watch(env: VectorEnv) -> Witness | None:
    """A witness of the first copy, where the copies are PettingZoo's."""
    inner = env.inner if isinstance(env, GuardedEnv) else env
    if not isinstance(inner, PettingZooEnv):
        return None
    witnesses: list[Witness] = []

    def witness(copy: ParallelEnv) -> Witness:
        witnesses.append(Witness(copy))
        return witnesses[-1]

    inner.watch(witness)
    return witnesses[0]


def _of_spaces(spec: TaskSpec) -> Iterator[Finding]:
    names = spec.agents
    yield Finding("ok", f"{len(names)} agents: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")
    kinds = zip(spec.observation_sizes, spec.action_spaces, names, strict=True)
    for (size, space), group in groupby(kinds, key=lambda kind: kind[:2]):
        members = [name for _, _, name in group]
        who = members[0] if len(members) == 1 else f"{members[0]} to {members[-1]}"
        yield Finding("ok", f"{who}: observes {size} numbers, acts in {space}")


def _of_steps(spec: TaskSpec, record: Record, witness: Witness | None) -> Iterator[Finding]:
    yield from _of_observations(record, witness)
    yield from _of_masks(record, witness)
    yield from _of_presence(record)
    yield from _of_ends(spec, record)
    yield from _of_rewards(spec, record, witness)


def _of_observations(record: Record, witness: Witness | None) -> Iterator[Finding]:
    types = f" ({', '.join(sorted(witness.dtypes))}, learnt from as float32)" if witness else ""
    yield Finding("ok", f"observations from {record.low:g} to {record.high:g}{types}")
    if max(-record.low, record.high) > _LARGE:
        yield Finding(
            "warn", "large observations: networks expect numbers of about 1; scale them, or set feature_normalization"
        )
    if witness and witness.outside:
        agent, what = witness.outside
        yield Finding("warn", f"an observation of {agent!r} is not in its space: {what}; it is taken as it is")


def _of_masks(record: Record, witness: Witness | None) -> Iterator[Finding]:
    if not record.allowed:
        return
    where = f" in {' and '.join(sorted(witness.mask_places))}" if witness and witness.mask_places else ""
    allowed = np.array(record.allowed)
    yield Finding(
        "ok", f"action masks{where} rule out {1.0 - allowed.mean():.0%} of the choices: none of these is done"
    )
    if waits := int((allowed == 0.0).sum()):
        share = waits / len(allowed)
        yield Finding(
            "ok", f"masks that allow nothing ({share:.0%}): the agent does action 0, and that sample is not learnt from"
        )


def _of_presence(record: Record) -> Iterator[Finding]:
    before, after, ended = np.array(record.before), np.array(record.after), np.array(record.ended)
    left = before & ~after & ~ended[:, np.newaxis]
    cut = left & np.array(record.truncated)
    if died := int((left & ~cut).sum()):
        yield Finding("ok", f"agents leave before the others, {died} times: they see zeros and are paid nothing then")
    if cut.any():
        yield Finding(
            "ok",
            f"agents are cut off before the others, {int(cut.sum())} times: the value of what they see last counts",
        )
    if arrived := int((~before & after).sum()):
        yield Finding("ok", f"agents join in mid-episode, {arrived} times: their memory begins anew")


def _of_ends(spec: TaskSpec, record: Record) -> Iterator[Finding]:
    lengths, steps = record.lengths, len(record.ended)
    if not lengths and spec.episode_length is not None and steps < spec.episode_length:
        yield Finding("ok", f"no episode ended in {steps:,} random steps: they may take {spec.episode_length:,}")
        return
    if not lengths:
        yield Finding(
            "warn", f"no episode ended in {steps:,} random steps: set episode_length, or returns are never known"
        )
        return
    last = np.flatnonzero(record.ended)
    cut = int(np.array(record.truncated)[last].any(axis=1).sum())
    span = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
    yield Finding(
        "ok", f"{len(lengths)} episodes of {span} steps: {len(lengths) - cut} ended by termination, {cut} by truncation"
    )
    longest = max(lengths)
    always = len(lengths) > 2 and lengths.count(longest) == len(lengths)
    limit = longest > 1 and (spec.episode_length == longest or always)
    if limit and cut < lengths.count(longest):
        yield Finding(
            "warn",
            f"episodes of {longest} steps end by termination: if that is a time limit, it should be a truncation, or "
            "values are learnt as if nothing came after it",
        )


def _of_rewards(spec: TaskSpec, record: Record, witness: Witness | None) -> Iterator[Finding]:
    rewards, there = np.array(record.rewards), np.array(record.before)
    alike = len(spec.agents) > 1 and bool((rewards == rewards[:, :1]).all())
    rewards = rewards[there]
    yield Finding("ok", f"rewards from {rewards.min():g} to {rewards.max():g}{', the same for all' if alike else ''}")
    if not rewards.any():
        yield Finding(
            "warn", f"no reward but 0 in {len(record.rewards):,} random steps: there is nothing to learn from at first"
        )
    if witness and witness.paid_absent:
        yield Finding(
            "warn",
            f"rewards are paid to agents that are not in the episode, {witness.paid_absent} times: they are dropped, "
            "from returns and learning alike",
        )


def _of_abilities(env: VectorEnv) -> Iterator[Finding]:
    if env.state_dict() is None:
        yield Finding("ok", "its state cannot be saved: a resumed run begins new episodes")
    try:
        env.number_from(0)
    except ConfigError:
        yield Finding("ok", "it cannot be split: env_servers must be 1")


def _of_repetition(task: str, num_agents: int | None, steps: int) -> Iterator[Finding]:
    """Whether the same seed and actions give the same, also beside another environment; and how fast it is."""
    first, again, other = (_record(task, num_agents, 1, steps, seed) for seed in (0, 0, 1))
    beside = _record(task, num_agents, 2, steps, seed=0)
    if (step := _difference(first, again)) is not None:
        yield Finding(
            "warn", f"the same seed and actions give something else from step {step} on: no run of it can be repeated"
        )
    elif (step := _difference(first, beside)) is not None:
        yield Finding(
            "warn",
            f"beside a second environment the first does something else from step {step} on: they share what is random "
            "in them, so that num_envs, env_workers and env_servers change every episode",
        )
    else:
        also = ", and so does another seed" if _difference(first, other) is None else ""
        yield Finding("ok", f"the same seed gives the same episodes{also}")
    rate = steps / max(min(first.seconds, again.seconds), 1e-9)
    yield Finding("ok", f"one environment takes {rate:,.0f} steps a second on this machine")


def _difference(one: Record, other: Record) -> int | None:
    """The first step at which two records differ; None if none is."""
    pairs = enumerate(zip(one.digests, other.digests, strict=True))
    return next((step for step, (a, b) in pairs if a != b), None)


def _record(task: str, num_agents: int | None, num_envs: int, steps: int, seed: int) -> Record:
    env = make_env(task, num_agents, num_envs, seed)
    try:
        return record_steps(env, steps, seed=0)
    finally:
        env.close()

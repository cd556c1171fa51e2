"""Processes that do jobs: their results in order, and nothing left of them."""

import multiprocessing
import os
import time

import pytest

from tiny_llm.fast.pool import Pool

SIZE = 3_000_000  # bytes, far more than a pipe holds


def negative(job):
    return -job


def large(job):
    return bytes([job]) * SIZE


def size_of(job):
    return len(job)


def picky(job):
    if job == 2:
        raise ValueError("not this one")
    return job


def deadly(job):
    os._exit(3) if job == 2 else None
    return job


def asleep(job):
    time.sleep(600)


BEGUN = []


def offset(job):
    return BEGUN[0] + job


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("jobs", [0, 1, 2, 3, 20])
def test_results_come_in_order_and_the_processes_go_on_with_other_jobs(count, jobs):
    with Pool(count, negative) as pool:
        for _ in range(3):
            assert list(pool.map(range(jobs))) == [-job for job in range(jobs)]
        assert len(pool.helpers) == min(count, jobs)
    assert not multiprocessing.active_children()


def test_what_begins_a_process_is_there_for_its_jobs():
    with Pool(2, offset, BEGUN.append, 40) as pool:
        assert list(pool.map([1, 2, 3])) == [41, 42, 43]
    assert BEGUN == []


def test_jobs_and_results_may_be_larger_than_a_pipe():
    with Pool(2, size_of) as pool:
        assert list(pool.map(bytes(SIZE) for _ in range(5))) == [SIZE] * 5
    with Pool(2, large) as pool:
        assert [result[-1] for result in pool.map(range(5))] == list(range(5))


@pytest.mark.parametrize("do", [large, asleep])
def test_what_is_given_up_is_gone_at_once(do):
    """Also in the middle of a result, which nobody waits for."""
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Pool(2, do) as pool:
        results = pool.map(range(9))
        if do is large:
            next(results)
        else:
            pool._start()
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()
    assert time.monotonic() - began < 300  # far from the 600 s of a job


@pytest.mark.parametrize("do, message", [
    (picky, "not this one"), (deadly, "a worker process died"),
])  # fmt: skip
def test_what_a_job_raises_and_a_death_are_raised(do, message):
    done = []
    with pytest.raises(ValueError, match=message), Pool(2, do) as pool:
        done.extend(pool.map([0, 1, 2, 3, 4]))
    assert not multiprocessing.active_children()


def test_no_more_jobs_are_taken_than_there_are_processes():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield 1

    with Pool(2, negative) as pool:
        results = pool.map(endless())
        for _ in range(10):
            next(results)
    assert len(taken) <= 10 + 2

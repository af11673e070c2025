"""The method `doctor` of the front object.

Covers: which workers are looked at.
Does not cover: looking (`driver`), the other methods (`daskt2i.run`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daskt2i.session.verbs import verb

if TYPE_CHECKING:
    from daskt2i.doctor.result import DoctorResult
    from daskt2i.session.run_settings import RunSettings
    from daskt2i.session.session import Session


class RunDoctor:
    """The part of a run that looks at machines, workers and plan."""

    _found: RunSettings
    _asked: str | None

    @verb
    def doctor(self) -> DoctorResult:
        """Look at this machine or at the workers, at what they see, and at the plan. Name each problem with advice.

        It encodes nothing, and leaves nothing in the run folder. It starts workers only if you named a scheduler that
        starts some (`scheduler="local"`).
        """
        from daskt2i.doctor.driver import doctor

        return doctor(self._found, self._workers, named=self._asked is not None)

    def _workers(self) -> Session:
        raise NotImplementedError

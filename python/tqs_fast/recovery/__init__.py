"""Where rounded weights lie in the basin of the float ones. Comes after rewriting: it looks at packed modules."""

from tqs_fast.recovery.basin import diagnose_basin
from tqs_fast.recovery.diagnosis import BasinDiagnosis, LineScan

__all__ = ["BasinDiagnosis", "LineScan", "diagnose_basin"]

"""Where rounded weights lie in the basin of the float ones, and training them back. Looks at packed modules."""

from tqs_fast.recovery.basin import diagnose_basin
from tqs_fast.recovery.diagnosis import BasinDiagnosis
from tqs_fast.recovery.recovered import Progress, Recovery
from tqs_fast.recovery.scan import LineScan
from tqs_fast.recovery.train import recover

__all__ = ["BasinDiagnosis", "LineScan", "Progress", "Recovery", "diagnose_basin", "recover"]

"""Charts of a report page: SVG written from the figures, text kept as text."""

from tqs_fast.reporting.charts.curves import curves_chart
from tqs_fast.reporting.charts.measured import agreement_chart, intervals_chart
from tqs_fast.reporting.charts.sizes import frontier_chart

__all__ = ["agreement_chart", "curves_chart", "frontier_chart", "intervals_chart"]

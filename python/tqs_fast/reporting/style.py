"""The style sheet of a report page: no fonts, images or scripts; everything follows the reader's colour scheme."""

from __future__ import annotations

from tqs_fast.reporting.palette import DARK, DASHES, LIGHT, variables

RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.55 system-ui,sans-serif}
main,header,footer{max-width:60rem;margin:0 auto;padding:0 1.25rem}
main:focus{outline:none}
h1{font-size:1.7rem;line-height:1.25;margin:1.6rem 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.4rem 0 .6rem}
p{max-width:46rem;margin:.5rem 0}
a{color:var(--link)}
.skip{position:absolute;left:-999rem}
.skip:focus{left:.5rem;top:.5rem;background:var(--panel);padding:.5rem 1rem}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
nav ul{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;list-style:none;padding:0;margin:.8rem 0}
ul.facts,ul.next{max-width:46rem;padding-left:1.2rem}
dl.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.75rem;margin:1rem 0}
dl.figures>div,figure,details,.scroll{background:var(--panel);border:1px solid var(--line);border-radius:6px}
dl.figures>div{padding:.6rem .8rem}
dl.figures dt,figcaption,caption,.note{color:var(--muted);font-size:.875rem}
dl.figures dd{margin:.1rem 0 0;font-size:1.25rem;font-variant-numeric:tabular-nums}
dl.figures dd small{display:block;font-size:.875rem;color:var(--muted)}
figure{margin:1rem 0;padding:.8rem}
figcaption{margin-top:.5rem;max-width:46rem}
.wide{overflow-x:auto}
.wide svg{display:block;width:100%;min-width:40rem;height:auto}
.scroll{overflow:auto;max-height:34rem;margin:1rem 0}
details{margin:1rem 0;padding:.5rem .8rem}
details .scroll{border:0;margin:.5rem 0 0}
summary{cursor:pointer}
table{border-collapse:collapse;width:100%;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.5rem .7rem}
th,td{padding:.28rem .7rem;text-align:left;border-top:1px solid var(--line);vertical-align:top}
thead th{position:sticky;top:0;background:var(--panel);border-top:0;white-space:nowrap;z-index:1}
tbody th{font-weight:400;overflow-wrap:anywhere;min-width:9rem}
.number{text-align:right;white-space:nowrap}
tr.kept th,tr.kept td{font-weight:600}
td.planned{font-weight:700;box-shadow:inset 0 0 0 2px currentColor}
td.diverged{background:repeating-linear-gradient(45deg,var(--panel) 0 6px,var(--line) 6px 8px)}
td.level{background:var(--heat);color:var(--heat-text)}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;padding:0;margin:.5rem 0;font-size:.875rem}
.legend li{overflow-wrap:anywhere}
.sample{width:20px;height:20px;vertical-align:middle}
.sample.long{width:40px;height:16px}
td.value{overflow-wrap:anywhere}
footer{padding-bottom:3rem}
svg text{font:12px system-ui,sans-serif;fill:var(--text)}
svg text.tick,svg text.axis{fill:var(--muted)}
svg .grid{stroke:var(--line);stroke-width:1}
svg .frame{stroke:var(--quiet);stroke-width:1;fill:none}
svg .quiet{stroke:var(--quiet);stroke-width:1;fill:none}
svg .curve{stroke-width:2;fill:none;stroke-linejoin:round}
svg .mark{stroke-width:2;fill:var(--panel)}
svg .full{fill:var(--stroke)}
svg .leader{stroke:var(--quiet);stroke-width:.75}
@media (max-width:40rem){main,header,footer{padding:0 .75rem}figure{padding:.5rem}}
@media print{.scroll{max-height:none;overflow:visible}thead th{position:static}}
""".strip()


def style_sheet() -> str:
    """All rules, with the colours of both schemes."""
    series = "".join(
        f".s{i}{{--stroke:var(--series{i});stroke:var(--series{i})}}.d{i}{{stroke-dasharray:{dash}}}"
        for i, dash in enumerate(DASHES)
    )
    heat = "".join(f".h{i}{{--heat:var(--heat{i});--heat-text:var(--heat-text{i})}}" for i in range(len(LIGHT.heat)))
    dark = f"@media (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}"
    return f":root{{{variables(LIGHT)}}}{dark}\n{RULES}\n{series}{heat}"

"""A page that needs nothing beside it."""

from __future__ import annotations

import html

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
.lead{color:#555;margin-top:0}
.banner{background:#fff4ce;border-left:4px solid #c77700;padding:.6rem 1rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;margin:0}dt{color:#666}dd{margin:0}
pre{background:#f5f5f5;padding:.7rem 1rem;border-radius:4px;overflow-x:auto}
section{overflow-x:auto}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;line-height:1.35}
caption{text-align:left;font-weight:600;font-size:1rem;padding:.2rem 0 .5rem}
th,td{padding:.3rem .7rem;text-align:right;vertical-align:top;border-bottom:1px solid #e4e4e4}
td{white-space:nowrap}
th{border-bottom:2px solid #999;vertical-align:bottom}td.left,th.left{text-align:left}
tbody tr:hover{background:#f7f9fc}
.notes{color:#555;font-size:.84rem;padding-left:1.2rem}
figure{margin:1.5rem 0}img{max-width:100%;height:auto}figcaption{color:#555;font-size:.88rem}
""".strip()


def document(title: str, body: str, head: str = "") -> str:
    """The page of a title, as text, and of what is shown and what else its head holds, as HTML."""
    title = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{head}'
        f"<style>\n{_STYLE}\n</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )

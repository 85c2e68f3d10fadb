"""What `tmux capture-pane -e -p` shows, as SVG: standard input to standard output."""
import html
import re
import sys

COLUMNS, WIDTH, HEIGHT, PAD = 80, 8.43, 18, 14
lines = sys.stdin.read().rstrip("\n").split("\n")
lines = [line.rstrip() for line in lines]
while lines and not re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]).strip(" $"):
    lines.pop()
width, height = COLUMNS * WIDTH + 2 * PAD, len(lines) * HEIGHT + 2 * PAD + 16
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">')
print("<style>text{font:14px 'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#d6d9dc;white-space:pre}")
print(".g{fill:#5fc77f}.p{fill:#7fb0f5}</style>")
print(f'<rect width="100%" height="100%" rx="10" fill="#16191c"/>')
for i, color in enumerate(["#ff5f57", "#febc2e", "#28c840"]):
    print(f'<circle cx="{PAD + 6 + 18 * i}" cy="15" r="5.5" fill="{color}"/>')
color = ""
for row, line in enumerate(lines):
    y = PAD + 16 + (row + 0.8) * HEIGHT
    column, spans = 0, []
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if piece.startswith("\x1b"):
            codes = piece[2:-1].split(";")
            color = "g" if "32" in codes else ""
        elif piece:
            # Each piece at its own column, so that another font moves nothing far.
            style = f' class="{color}"' if color else (' class="p"' if column == 0 and piece.startswith("$ ") else "")
            spans.append(f'<tspan x="{PAD + column * WIDTH:.1f}"{style}>{html.escape(piece)}</tspan>')
            column += len(piece)
    if spans:
        print(f'<text y="{y:.1f}" xml:space="preserve">{"".join(spans)}</text>')
print("</svg>")

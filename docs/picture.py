"""Makes docs/report.jpg, the picture in the README, from the report of a demo run. `make picture` runs it."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

STYLE = """
  body { max-width: none; padding: 1.2rem 1.5rem; }
  body > *, body > .plots, body > .scales, #controls, header p, #cases > article { display: none; }
  header, dl.facts, #trusted, #cases-title, #cases, #cases > article:nth-child(1) {
    display: revert; }
  dl.facts { display: grid; margin: .6rem 0 0; }
  #trusted + p + h3 + .plots { display: flex; margin: .5rem 0 0; }
  .plots figure { width: 29rem !important; }
  h2 { margin: .8rem 0 0; }
  article p { max-width: none; }
  .panels { flex-wrap: nowrap; } .panels figure { width: 14%; }
"""
SIZE = (1200, 838)


def picture(report: Path, picture: Path) -> None:
    """Show the parts of a report that say most, as Chromium draws them."""
    short, shot = report.with_name("picture.html"), report.with_name("picture.png")
    short.write_text(report.read_text().replace("</head>", f"<style>{STYLE}</style></head>", 1))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={shot}", short.resolve().as_uri()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    Image.open(shot).convert("RGB").save(picture, quality=80, optimize=True, progressive=True)
    short.unlink()
    shot.unlink()


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(__file__).with_name("report.jpg"))

"""Makes docs/report.jpg, the picture in the README, from the report of a demo run. `make picture` runs it."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

STYLE = """
  body { display: block; }
  main { max-width: none; padding: .8rem 1.2rem; }
  nav, main > *, .viewer { display: none !important; }
  header, main > h3:nth-of-type(2), main > div:first-of-type, main > article:nth-child(1 of .case) {
    display: block !important; }
  main > dl:nth-of-type(2) { display: grid !important; }
  header p, article .soft { display: none; }
  main > h3 { margin: .6rem 0 .2rem; }
  p { max-width: none; }
"""
SIZE = (1200, 788)


def picture(report: Path, picture: Path) -> None:
    """Show the parts of a report that say most, as Chromium draws them."""
    short, shot = report.with_name("picture.html"), report.with_name("picture.png")
    short.write_text(report.read_text().replace("</head>", f"<style>{STYLE}</style></head>", 1))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={shot}", short.resolve().as_uri()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    Image.open(shot).convert("RGB").save(picture, quality=66, optimize=True, progressive=True)
    short.unlink()
    shot.unlink()


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(__file__).with_name("report.jpg"))

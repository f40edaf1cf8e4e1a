"""The viewer in a real browser: Debian's chromium, headless, told what to do by Playwright."""

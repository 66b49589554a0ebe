"""Opens a page in a real browser, Qt WebEngine (Chromium), and prints as JSON what it saw. It is a process of its own:

python -m tests.browser PAGE WIDTH [light|dark] [PICTURE.png]
"""

import json
import os
import sys
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"
SCHEME = int("dark" not in sys.argv)
# root may have no sandbox, and CI has no GPU
os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = f"--no-sandbox --disable-gpu --blink-settings=preferredColorScheme={SCHEME}"

from PySide6.QtCore import QTimer, QUrl  # noqa: E402 (it reads these)
from PySide6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor  # noqa: E402
from PySide6.QtWebEngineWidgets import QWebEngineView  # noqa: E402
from PySide6.QtWidgets import QApplication  # noqa: E402

TIMEOUT_MS = 60_000
SCRIPT = """(() => {
  const shown = [...document.querySelectorAll("body *")].filter(e => e.getClientRects().length);
  const edge = document.documentElement.clientWidth;
  return JSON.stringify({
    headline: document.querySelector(".headline").innerText,
    width: window.innerWidth,
    scroll_width: document.documentElement.scrollWidth,
    images: [...document.images].map(i => i.naturalWidth),
    sticking_out: shown
      .filter(e => e.getBoundingClientRect().right > edge + 0.5 || e.getBoundingClientRect().left < -0.5)
      .map(e => e.tagName + " " + e.textContent.trim().slice(0, 60)),
    background: getComputedStyle(document.documentElement).backgroundColor,
  });
})()"""


def main(file: str, width: str, _scheme: str = "light", picture: str = "") -> None:
    app = QApplication([])
    requests: list[str] = []
    messages: list[str] = []

    class Requests(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, info: object) -> None:  # noqa: N802 (Qt's name)
            requests.append(info.requestUrl().toString()[:200])

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, _level: object, text: str, *_: object) -> None:  # noqa: N802
            messages.append(text)

    profile = QWebEngineProfile()
    interceptor = Requests()
    profile.setUrlRequestInterceptor(interceptor)
    view = QWebEngineView()
    page = Page(profile, view)
    view.setPage(page)
    view.resize(int(width), 844)
    view.show()

    def seen(found: str) -> None:
        if picture:
            view.grab().save(picture)
        print(json.dumps({"requests": requests, "messages": messages, "seen": json.loads(found)}), flush=True)
        os._exit(0)  # Qt's own cleaning up may crash

    def loaded(ok: bool) -> None:
        if not ok:
            sys.exit("the page could not be loaded")
        QTimer.singleShot(300, lambda: page.runJavaScript(SCRIPT, seen))  # once it is laid out

    page.loadFinished.connect(loaded)
    page.setUrl(QUrl.fromLocalFile(str(Path(file).absolute())))
    QTimer.singleShot(TIMEOUT_MS, lambda: os._exit(1))
    app.exec()


if __name__ == "__main__":
    main(*sys.argv[1:])

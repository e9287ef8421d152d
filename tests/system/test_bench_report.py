"""The report, history and budget commands, and the page in a real browser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from hartwood.lab.judgement import save_judgement
from hartwood.lab.results import save_run
from unit.lab_results import HOSTILE, a_judgement, a_run

BUDGET = """[[budget]]
benchmark = "boot"
kind = "absolute"
seconds = {}
reason = "a boot is waited for"
expires = 2999-01-01
"""


def bench(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hartwood", "bench", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A folder with a run, a judgement, a history with a step in it, and a budget that holds."""
    save_run(a_run(), tmp_path / "run.json")
    save_judgement(a_judgement(), tmp_path / "gate.json")
    from hartwood.lab.history import History, Record

    for day in range(1, 29):
        ratio = 1.0 if day < 15 else 1.08
        record = Record(
            f"2026-10-{day:02}T00:00:00+00:00", f"{day:040x}", "m", "ref", day == 1,
            {}, {"read/8": ratio},
        )  # fmt: skip
        History(tmp_path / "history").append(record)
    (tmp_path / "budgets.toml").write_text(BUDGET.format(1))
    return tmp_path


def _report(stored: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return bench(
        "report", stored / "run.json", stored / "gate.json", "--history", stored / "history",
        "--budgets", stored / "budgets.toml", *more,
    )  # fmt: skip


def test_every_form(stored: Path) -> None:
    names = {form: stored / f"out.{form}" for form in ("html", "md", "json", "junit", "sarif")}
    done = _report(stored, *(word for form, path in names.items() for word in (f"--{form}", path)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    texts = {form: path.read_text() for form, path in names.items()}
    assert texts["md"].splitlines()[1] == "### Performance: regressed"
    assert "| read/8 | regressed (warning) | +5.0 % [+4.0, +6.0] | 2.0% | execute |" in texts["md"]
    assert "read/8: +8.0 %" in texts["md"]
    for form in ("md", "html"):
        assert "<script>alert" not in texts[form]
    assert "@me" not in texts["md"]
    suite = ET.fromstring(texts["junit"])
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "1", "1")
    (result, other) = json.loads(texts["sarif"])["runs"][0]["results"]
    assert (result["ruleId"], result["level"], other["level"]) == ("regressed", "error", "warning")
    assert json.loads(texts["json"])["judgement"]["blocked"] == ["read/8"]


def test_a_report_without_a_judgement_is_not_green(stored: Path) -> None:
    done = bench("report", stored / "run.json")
    assert "not judged" in done.stdout
    assert bench("report").returncode == 2
    assert bench("report", stored / "gone.json").returncode == 2
    bench("report", stored / "run.json", "--junit", stored / "j.xml")
    assert ET.parse(stored / "j.xml").getroot().get("errors") == "1"


def test_history_and_budget_commands(stored: Path) -> None:
    done = bench("history", stored / "history", "--add", stored / "run.json")
    assert done.returncode == 0
    assert "read/8: +8.0 %" in done.stdout
    with (stored / "history" / "history.jsonl").open("a") as file:
        file.write("{half\n")
    done = bench("history", stored / "history")
    assert done.returncode == 2
    assert "history.jsonl:30: damaged JSON" in done.stderr
    held = ("budget", stored / "run.json", "--budgets", stored / "budgets.toml")
    assert bench(*held).returncode == 0
    assert bench(*held, "--history", stored / "history").returncode == 2
    (stored / "budgets.toml").write_text(BUDGET.format(1e-3))
    assert bench(*held).returncode == 1


def test_export_and_import_commands(stored: Path) -> None:
    out = stored / "pyperf.json"
    assert bench("export", stored / "run.json", "--to", "pyperf", "--json", out).returncode == 0
    done = bench("import", out, "--from", "pyperf", "--json", stored / "back.json")
    assert done.returncode == 0
    assert bench("report", stored / "back.json").returncode == 0
    assert bench("import", out, "--from", "odd", "--json", stored / "x.json").returncode == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(stored: Path, oracle, scheme: str, width: int) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By

    _report(stored, "--html", stored / "out.html")
    options = webdriver.ChromeOptions()
    options.binary_location = oracle("chromium")
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={stored / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(oracle("chromedriver"))
    with webdriver.Chrome(options, service) as browser:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        browser.get((stored / "out.html").as_uri())
        assert browser.get_log("browser") == []
        # Nothing is fetched, and what a stranger wrote is text.
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert HOSTILE[:25] in browser.find_element(By.TAG_NAME, "body").text
        charts = browser.find_elements(By.TAG_NAME, "svg")
        assert len(charts) == 4
        assert all(chart.size["width"] > 100 and chart.size["height"] > 20 for chart in charts)
        assert len(browser.find_elements(By.CSS_SELECTOR, "svg .change")) == 1
        wide = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(wide) <= 0
        # No chart has to be scrolled to sideways, not even on a phone.
        assert all(chart.rect["x"] + chart.rect["width"] <= width for chart in charts)
        page = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert page == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 25)"}[scheme]

        def first() -> list[str]:
            rows = browser.find_elements(By.CSS_SELECTOR, "table:first-of-type tbody tr")
            return [row.find_element(By.TAG_NAME, "td").text for row in rows][:3]

        assert first() == ["read/8", "boot", "tlb/hit"]
        browser.find_element(By.CSS_SELECTOR, "th button").click()
        assert first() == ["boot", "read/8", "tlb/hit"]
        browser.find_element(By.CSS_SELECTOR, "th button").click()
        assert first() == ["tlb/hit", "read/8", "boot"]
        tall = browser.execute_script("return document.documentElement.scrollHeight")
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics | {"height": tall})
        assert browser.save_screenshot(str(stored / f"{scheme}-{width}.png"))

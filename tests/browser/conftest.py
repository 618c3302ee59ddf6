"""A browser for the tests of the report and the pages: Debian's chromium and chromium-driver, through selenium."""

import shutil

import pytest

OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1300,1000")


def found(*names):
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def driver():
    webdriver = pytest.importorskip("selenium.webdriver", reason='needs selenium: pip install "sklatent[browser]"')
    browser, service = found("chromium", "chromium-browser", "google-chrome"), found("chromedriver")
    if not browser or not service:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for option in OPTIONS:
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    # No page may ask for anything.
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
    yield driver
    driver.quit()


OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}


@pytest.fixture
def until(driver):
    """A function that returns what a condition does once it is true: some events follow the call that causes them."""
    from selenium.webdriver.support.ui import WebDriverWait

    return lambda condition: WebDriverWait(driver, 30).until(lambda _: condition())


@pytest.fixture
def browser(driver):
    """The browser, with what its console said before forgotten."""
    driver.get_log("browser")
    return driver

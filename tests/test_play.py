"The pencil network in a real browser: its numbers are dragged and pressed, and every value and gradient in the page is compared with PyTorch's."
import math
from pathlib import Path
from shutil import which
import pytest
from playwright.sync_api import sync_playwright
from course_backprop.tools import play
from test_lab import flags, missing

labels = play.PENCIL_LABELS

@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as p:
        chromium = which('chromium') or p.chromium.executable_path
        if not Path(chromium).exists(): missing('needs Chromium')
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()

def says(text, start, value):
    "Is the text this start, and the value to three digits?"
    number = float(text.removeprefix(start).replace('−', '-')) if text.startswith(start) else math.nan
    return abs(number - value) <= (.5001*10**(math.floor(math.log10(abs(value))) - 2) if abs(value) > 1e-9 else 1e-9)

class Network:
    "The page, and what its twelve numbers should be"
    def __init__(self, browser, html=None):
        self.page, self.now, self.said = browser.new_page(viewport=dict(width=1000, height=460)), dict(play.PENCIL), []
        self.page.on('pageerror', lambda o: self.said.append(str(o)))
        self.page.set_content(html or play.pencil_page())

    def chip(self, name): return self.page.locator(f'[data-name={name}]')
    def lines(self): return self.page.locator('.said').all_text_contents()

    def drag(self, name, by): # by hundredths, a pixel each
        box = self.chip(name).bounding_box()
        x, y = box['x'] + 20, box['y'] + 20
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 100*by, y + 5, steps=4)
        self.page.mouse.up()
        self.now[name] = round(min(max(self.now[name] + by, -5), 5)*20)/20

    def press(self, name, key, by):
        self.chip(name).focus()
        self.page.keyboard.press(key)
        self.now[name] = round(min(max(self.now[name] + by, -5), 5)*20)/20

    def wrong(self):
        "What the page says that PyTorch doesn't"
        values, grads = play.pencil_values(self.now)
        want = {(name, '.value', f'{labels[name]} = '): value for name, value in values.items()} | {(name, '.g', '.g = '): g for name, g in grads.items()}
        got = {key: self.chip(key[0]).locator(key[1]).text_content() for key in want}
        now = {name: float(self.chip(name).get_attribute('aria-valuenow')) for name in self.now}
        return self.said + [f'{got[key]!r}, not {want[key]}' for key in want if not says(got[key], key[2], want[key])] + [o for o in now if now[o] != self.now[o]]

moves = [('w11', .5), ('w12', .75), ('x2', -1.15), ('q1', -2.), ('b2', 1.3), ('y', -1.5), ('c', .35), ('w21', -3.), ('x1', .65), ('q2', 1.), ('b1', 1.2), ('w22', 2.45)]

def test_every_number_by_mouse(browser):
    network = Network(browser)
    assert network.wrong() == []
    for name, by in moves:
        network.drag(name, by)
        assert network.wrong() == [], name

def test_every_number_by_key(browser):
    network = Network(browser)
    keys = dict(ArrowRight=.05, ArrowUp=.05, ArrowLeft=-.05, ArrowDown=-.05, PageUp=.5, PageDown=-.5, Home=-10, End=10)
    for name in play.PENCIL:
        for key in ('ArrowRight', 'PageUp', 'ArrowUp', 'ArrowLeft', 'ArrowDown', 'PageDown', 'PageDown'): network.press(name, key, keys[key])
        assert network.wrong() == [], name
    for key in ('Home', 'End'):
        network.press('w11', key, keys[key])
        assert network.wrong() == [], key

def test_promise_beside_what_happens(browser):
    network = Network(browser)
    network.drag('w11', .5)
    assert network.lines() == ['w⁽¹⁾₁₁ moved by 0.5', 'its gradient was 8: promised 8 · 0.5 = 4', 'the loss moved by 4.25']
    network.press('w11', 'ArrowRight', .05)                                     # still the same hold
    assert network.lines()[0] == 'w⁽¹⁾₁₁ moved by 0.55'
    network.drag('w12', .2)                                                     # behind a gate that stays shut
    assert network.lines()[1:] == ['its gradient was 0: promised 0 · 0.2 = 0', 'the loss moved by 0']
    network.page.get_by_role('button', name='start again').click()
    network.now = dict(play.PENCIL)
    assert network.wrong() == [] and network.lines()[1:] == ['', '']

def test_still_picture_says_the_same(browser):
    network, still = Network(browser), play.draw_pencil(w11=1.5)
    network.drag('w11', .5)
    for line in network.lines(): assert f'>{line}<' in still.svg

def test_every_slider_is_reached_by_tab(browser):
    network, reached = Network(browser), []
    for _ in play.PENCIL:
        network.page.keyboard.press('Tab')
        reached.append(network.page.evaluate('document.activeElement.dataset.name'))
    assert sorted(reached) == sorted(play.PENCIL)

@pytest.mark.parametrize('right, wrong', [("z['t'+j] > 0 ? g['v'+j] : 0", "g['v'+j]"), ('2*(z.u - z.y)', 'z.u - z.y'), ('/100)', '/90)'), ("z['x'+a]*g['t'+j]", "z['x'+j]*g['t'+a]")])
def test_a_wrong_page_is_seen(browser, right, wrong):
    html = play.pencil_page()
    assert html.count(right) == 1
    network = Network(browser, html.replace(right, wrong))
    network.drag('w11', .5)
    assert network.wrong()

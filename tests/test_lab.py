"The lessons as a learner has them: `backprop_lab` starts JupyterLab, and a real Chromium opens and runs each one."
import json, os, re, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
from shutil import which
import nbformat, pytest
from axe_playwright_python.sync_playwright import Axe
from course_backprop.tools.lab import lessons as lessons_in, number_and_module
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from playwright.sync_api import TimeoutError, expect, sync_playwright

root = Path(__file__).resolve().parent.parent
lessons = lessons_in(root/'nbs')
seconds = 1000          # in the unit of Playwright's timeouts

def plays(nb):
    "How many interactives a notebook's source makes"
    code = '\n'.join(c.source for c in nb.cells if c.cell_type == 'code')
    return len(re.findall(r'(?<!def )\b(?:play|step_backward|pencil_network)\(', code))

interactives = {o.name: plays(nbformat.read(o, 4)) for o in lessons}

# The server and the browser

settings = {'@jupyterlab/notebook-extension:tracker': {'windowingMode': 'none'},            # every cell is in the page
            '@jupyterlab/apputils-extension:notification': {'fetchNews': 'false'}}          # and no question lies over it

@contextmanager
def jupyterlab(folder):
    "The address of a JupyterLab that `backprop_lab` starts in a folder, with a configuration of its own; stopped at the end"
    config = folder/'.config'/'labconfig'
    config.mkdir(parents=True, exist_ok=True)
    (config/'default_setting_overrides.json').write_text(json.dumps(settings))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = {**os.environ, 'JUPYTER_CONFIG_DIR': str(config.parent), 'XDG_DATA_HOME': str(folder/'.data'),
           'IPYTHONDIR': str(folder/'.ipython')}
    command = [Path(sys.executable).parent/'backprop_lab', '.', '--no-browser', '--port', str(port), '--expose-app-in-browser',
               '--IdentityProvider.token=', '--ServerApp.port_retries=0']
    with (folder/'lab.log').open('a') as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < until:
            try: socket.create_connection(('127.0.0.1', port), 1).close()
            except OSError: time.sleep(.1)
            else: break
        else: pytest.fail((folder/'lab.log').read_text())
        yield f'http://127.0.0.1:{port}'
    finally:
        server.terminate()
        server.wait(30)

def missing(why):
    "No browser: the checks in .ci/run fail then; on other machines these tests are skipped"
    (pytest.fail if os.environ.get('BACKPROP_BROWSER') == 'required' else pytest.skip)(why)

window = dict(width=1280, height=900)
flags = '''--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
           --disable-component-update --disable-sync'''.split()

@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as p:
        chromium = which('chromium') or p.chromium.executable_path
        if not Path(chromium).exists(): missing('needs Chromium: apt-get install chromium, or playwright install chromium')
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        yield browser.new_context(viewport=window)
        browser.close()

@pytest.fixture(scope='module')
def lab(browser, tmp_path_factory):
    "The folder of a learner who has started `backprop_lab`, and the address"
    folder = tmp_path_factory.mktemp('lab')
    with jupyterlab(folder) as address: yield folder, address

# A notebook in the browser

class Opened:
    "A notebook in JupyterLab; `said` is what its page wrote to the console as an error"
    def __init__(self, browser, address, name):
        self.name, self.said, self.page = name, [], browser.new_page()
        self.page.on('console', lambda o: self.said.append(f'{o.text} {o.location["url"]}') if o.type == 'error' else None)
        self.page.on('pageerror', lambda o: self.said.append(str(o)))
        self.page.goto(f'{address}/lab/tree/{name}?reset')
        self.idle()

    def until(self, condition, timeout=60, **kw): self.page.wait_for_function(condition, timeout=timeout*seconds, **kw)
    def idle(self, timeout=60): self.until("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'", timeout)

    def cells(self, find):
        "What JavaScript, from a `cell` and its `source` to a list of words, finds; each with the cell's id and first line"
        return self.page.evaluate("""() => jupyterapp.shell.currentWidget.content.widgets.flatMap(o => {
            const cell = o.node, source = o.model.sharedModel.source.trim(), all = what => [...cell.querySelectorAll(what)]
            const line = source.split('\\n').find(l => l && !l.startsWith('#|'))
            return (%s).map(word => `cell ${o.model.id} (${line}): ${word}`)
        })""" % find)

    def run(self):
        "Run All Cells, until the kernel has answered and the page shows it"
        self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        self.idle(600)                      # a lesson takes a minute at most, where nothing else runs
        until = time.monotonic() + 60
        while self.cells(pending) and time.monotonic() < until: self.page.wait_for_timeout(100)
        return self

    def theme(self, name, light):
        self.page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: '{name}'}})")
        self.until(f"document.body.dataset.jpThemeLight == '{light}' && !document.querySelector('#jupyterlab-splash')")

    def close(self):
        self.page.evaluate('jupyterapp.shell.currentWidget.sessionContext.shutdown()')
        self.page.close()

@pytest.fixture(scope='module', params=list(interactives))
def lesson(request, browser, lab):
    "One lesson after the other, opened and run"
    nb = Opened(browser, lab[1], request.param).run()
    yield nb
    nb.close()

# Rules: from a notebook that was run to complaints

shown = '.jp-OutputArea-output, .jp-MarkdownOutput'     # outputs, and the text of text cells

raw_formulas = r"""all('.jp-RenderedHTMLCommon, .jp-RenderedLatex').flatMap(o => {
    const text = o.cloneNode(true)
    text.querySelectorAll('code, pre, mjx-container').forEach(o => o.remove())
    return text.textContent.match(/\$[^$]+\$|\\[a-z]+\{/g) ?? []
})"""
wrong_formulas = """all('mjx-merror, mjx-mtext[style*="red"]').map(o => o.dataset.mjxError ?? o.textContent)"""
empty_pictures = """all('.jp-OutputArea-output img, .jp-MarkdownOutput img')
    .filter(o => !(o.complete && o.naturalWidth && (o.clientWidth || o.closest('.lm-mod-hidden')))).map(o => o.outerHTML.slice(0, 99))"""
empty_widgets = """all('.jp-OutputArea-output').map(o => o.textContent)
    .filter(o => o == 'Loading widget...' || o.startsWith('Error displaying widget'))"""
pending = f'[...{raw_formulas}, ...{empty_pictures}, ...{empty_widgets}]'      # what may take a moment after the run

def all_run(nb):
    "Every cell with code has a number"
    return nb.cells(r"""all('.jp-InputPrompt').map(o => o.textContent)
        .filter(o => source && cell.matches('.jp-CodeCell') && !/^\[\d+\]:$/.test(o))""")

def no_error(nb):
    "No traceback, and nothing on the error stream"
    return nb.cells("""all('[data-mime-type$="jupyter.error"], [data-mime-type$="jupyter.stderr"]')
        .map(o => o.textContent.trim().slice(-300))""")

def quiet(nb): return nb.said

def formulas(nb):
    "MathJax has set each one, and knows every command in it"
    return nb.cells(raw_formulas) + nb.cells(wrong_formulas)

def pictures(nb): return nb.cells(empty_pictures)
def widgets(nb): return nb.cells(empty_widgets)

scrolls = ['d70b3780']          # the closed form that the chain rule spares us: too wide on purpose

def fits(nb):
    "Nothing that a cell shows is wider than the page"
    wide = nb.cells(f"""all('{shown}').filter(o => o.scrollWidth > o.clientWidth)
        .map(o => `${{o.scrollWidth}} pixels in ${{o.clientWidth}}`)""")
    return [o for o in wide if o.split()[1] not in scrolls]

ours = ['.jp-OutputArea-output.jp-RenderedHTMLCommon', '.jp-MarkdownOutput', '.backprop-play']
theirs = ['.noUi-handle']                                       # ipywidgets gives its sliders no name
not_ours = {'link-in-text-block': {'enabled': False}}           # the colour of links is JupyterLab's

@contextmanager
def tall(nb):
    "A window that shows all of the notebook, in a body that isn't 0 high as JupyterLab's is: axe takes the rest for hidden"
    height = nb.page.evaluate("document.querySelector('.jp-WindowedPanel-inner').scrollHeight")
    nb.page.set_viewport_size({**window, 'height': height + 400})
    nb.page.add_style_tag(content='body { height: 100vh }')
    nb.until("""height => {
        const outer = document.querySelector('.jp-WindowedPanel-outer')
        outer.scrollTop = 0
        return outer.clientHeight >= height
    }""", arg=height)
    yield
    nb.page.set_viewport_size(window)

def accessible(nb):
    "axe finds nothing in what the course shows, in the dark theme; nor in the light one, where only colours are new"
    found = []
    with tall(nb):
        for theme, light, options in ('Dark', 'false', {'rules': not_ours}), ('Light', 'true', {'runOnly': ['color-contrast']}):
            nb.theme(f'JupyterLab {theme}', light)
            said = Axe().run(nb.page, {'include': ours, 'exclude': theirs}, options).response
            found += [f'{theme}: {v["id"]}: {o["html"]}: {o["failureSummary"]}' for v in said['violations'] for o in v['nodes']]
            if 'color-contrast' not in [v['id'] for v in said['passes']]: found.append(f'{theme}: axe saw no text')
    return found

def complain(nb, said): assert not said, '\n'.join([nb.name, *said])

rules = [all_run, no_error, quiet, formulas, pictures, widgets, fits, accessible]

@pytest.mark.parametrize('rule', rules, ids=lambda o: o.__name__)
def test_rule(lesson, rule): complain(lesson, rule(lesson))

# Interactives: boxes of the class backprop-play, with one slider or more, perhaps buttons, and a picture

def press(control, key):
    control.focus()
    control.page.keyboard.press(key)

def drag(slider):
    "Its handle to the end of the track that is farther away"
    slider.scroll_into_view_if_needed()
    track, handle = slider.bounding_box(), slider.locator('.noUi-handle').bounding_box()
    x, y = handle['x'] + handle['width']/2, handle['y'] + handle['height']/2
    mouse = slider.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(track['x'] + (track['width'] if x < track['x'] + track['width']/2 else 0), y, steps=5)
    mouse.up()

def drag_number(chip):
    "A bit to the right"
    chip.scroll_into_view_if_needed()
    at = chip.bounding_box()
    x, y, mouse = at['x'] + at['width']/2, at['y'] + at['height']/2, chip.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + 50, y, steps=5)
    mouse.up()

def controls(box):
    "What a learner does, as pairs of a name and a function. Dragging comes last: it may lead to the last step"
    number = box.locator('[role=slider]:not(.noUi-handle)')          # the pencil network: numbers that are sliders themselves
    if number.count():
        yield 'number by key', lambda: press(number.first, 'ArrowRight')
        yield 'start again by mouse', box.get_by_role('button', name='start again').click
        yield 'number by mouse', lambda: drag_number(number.first)
        return
    slider = box.locator('.noUi-target').first
    yield 'slider by key', lambda: press(slider.locator('.noUi-handle'), 'ArrowRight')
    for name, key in ('next ▶', 'Enter'), ('◀ previous', 'Space'):
        button = box.get_by_role('button', name=name)
        if not button.count(): continue
        yield f'{name} by mouse', button.click
        yield f'{name} by key', lambda: press(button, key)
    yield 'slider by mouse', lambda: drag(slider)

watch = """box => {        // box.took: milliseconds from the key to the changed picture
    const seen = () => [...box.querySelectorAll('img')].find(o => o.clientWidth)?.src      // a stack hides all but one
        ?? box.querySelector('svg')?.textContent
    const before = seen()
    box.took = null
    box.start = performance.now()
    box.addEventListener('keydown', () => box.start = performance.now(), {capture: true, once: true})
    new MutationObserver((_, self) => {
        if (!seen() || seen() == before) return
        box.took = performance.now() - box.start
        self.disconnect()
    }).observe(box, {subtree: true, childList: true, characterData: true, attributes: true})
}"""

def dead_controls(nb, timeout=10):
    "Controls of an interactive that don't change its picture; prints how long the others took"
    dead = []
    for i, box in enumerate(nb.page.locator('.backprop-play').all()):
        for what, act in controls(box):
            nb.idle()
            box.evaluate(watch)
            act()
            try: nb.until('box => box.took', timeout, arg=box.element_handle())
            except TimeoutError: dead.append(f'interactive {i}: {what}')
            else: print(f'{nb.name}, interactive {i}, {what}: {box.evaluate("box => box.took"):.0f} ms')
    return dead

def undescribed(nb):
    return nb.cells("""all('.backprop-play').filter(o => !o.querySelector('img, svg[aria-label]') || o.querySelector('img:not([alt]), img[alt=""]'))
        .map(o => o.innerHTML.slice(-99))""")

def test_interactives(lesson):
    expect(lesson.page.locator('.backprop-play')).to_have_count(interactives[lesson.name])
    complain(lesson, undescribed(lesson) + dead_controls(lesson) + pictures(lesson))

# What was written stays

def test_edited_lesson_survives(browser, tmp_path):
    "A line written in the browser is there, and shown, after a second `backprop_lab`"
    name, line = lessons[0].name, 'mine = "my own work"'
    with jupyterlab(tmp_path) as address:
        nb = Opened(browser, address, name)
        cell = nb.page.locator('.jp-CodeCell .cm-content').first
        cell.click()
        nb.page.keyboard.press('End')
        nb.page.keyboard.type(f'\n{line}')
        nb.page.keyboard.press('ControlOrMeta+s')
        nb.until('!jupyterapp.shell.currentWidget.context.model.dirty')
        nb.close()
    assert line in next(c.source for c in nbformat.read(tmp_path/name, 4).cells if c.cell_type == 'code')
    with jupyterlab(tmp_path) as address:
        nb = Opened(browser, address, name)
        expect(nb.page.locator('.jp-CodeCell .cm-content').first).to_contain_text(line)
        nb.close()
    assert '1 edited by you and kept' in (tmp_path/'lab.log').read_text()

# Each rule is shown what it is there for

def made_up(text, code):
    return new_notebook(cells=[*map(new_markdown_cell, text), *map(new_code_cell, code)],
                        metadata=dict(kernelspec=dict(name='python3', display_name='python3')))

interactive = """import ipywidgets
from IPython.display import HTML, Javascript, Latex, display
def interactive(works, alt):
    slider, html = ipywidgets.IntSlider(3, 0, 9), ipywidgets.HTML()
    back, on = ipywidgets.Button(description='◀ previous'), ipywidgets.Button(description='next ▶')
    def draw(_=None):
        svg = f"<svg xmlns='http://www.w3.org/2000/svg' width='{20 + slider.value}' height='9'/>"
        html.value = f'<img alt="{alt}" src="data:image/svg+xml,{svg}">'
    draw()
    if works:
        slider.observe(draw, 'value')
        on.on_click(lambda _: slider.set_trait('value', slider.value + 1))
        back.on_click(lambda _: slider.set_trait('value', slider.value - 1))
    return ipywidgets.VBox([slider, ipywidgets.HBox([back, on]), html]).add_class('backprop-play')
interactive(works=True, alt='a bar')"""

wrong = made_up(
    ['A formula, $x^2$, and code, `$x^2$`', 'In text: $x^{2$'],
    [interactive, 'interactive(works=False, alt="")',
     'display({"application/vnd.jupyter.widget-view+json": dict(model_id="lost", version_major=2, version_minor=0)}, raw=True)',
     'HTML("<div style=\'width: 3000px\'>wide</div>")',
     'HTML("<img alt=\'nothing\' src=\'data:image/png;base64,AAAA\'>")',
     'HTML("<p style=\'color: #999; background: #aaa\'>pale</p>")',
     'Javascript("console.error(\'from a cell\')")',
     r'Latex(r"$\unheardof{x}$")',
     'import sys; print("careful", file=sys.stderr)', '1/0', 'never_reached'])

@pytest.fixture(scope='module')
def broken(browser, lab):
    "A notebook with something wrong in each cell but the first ones, opened and run"
    nbformat.write(wrong, lab[0]/'broken.ipynb')
    nb = Opened(browser, lab[1], 'broken.ipynb').run()
    yield nb
    nb.close()

@pytest.mark.parametrize('rule, words', [
    (all_run, ['never_reached']), (no_error, ['careful', 'ZeroDivisionError']), (quiet, ['from a cell', 'model not found']),
    (formulas, ['In text', 'unheardof']), (pictures, ['nothing']), (widgets, ['lost']), (fits, ['3000']),
    (accessible, ['Dark: color-contrast', 'Light: color-contrast']), (undescribed, ['works=False'])],
    ids=lambda o: getattr(o, '__name__', ''))
def test_rule_is_seen_to_fail(broken, rule, words):
    "One complaint for each word, and no others"
    said = rule(broken)
    assert len(said) == len(words) and all(any(word in o for o in said) for word in words), said

def test_dead_controls_are_seen(broken):
    assert [o[:13] for o in dead_controls(broken, timeout=2)] == 6*['interactive 1']

def test_interactives_are_there(): assert [number_and_module(o)[0] for o, count in interactives.items() if count] == ['0', '2', '4', '5', '10b']

def test_interactives_are_counted():
    assert plays(made_up(['play(f)'], ['play(f, a=1)\nstep_backward()', 'pencil_network(f)', 'def play(f): pass', 'display(f)'])) == 3

def test_missing_browser_fails_where_it_is_required(monkeypatch):
    monkeypatch.setenv('BACKPROP_BROWSER', 'required')
    with pytest.raises(pytest.fail.Exception): missing('no browser')
    monkeypatch.delenv('BACKPROP_BROWSER')
    with pytest.raises(pytest.skip.Exception): missing('no browser')

"The site in a real Chromium, with the network cut but for the site itself: every page is opened, in light and dark, wide and narrow; what moves is moved."
import functools, http.server, json, os, re, subprocess, sys, threading
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from shutil import which
from urllib.parse import unquote, urldefrag, urljoin
import pytest

if sys.version_info < (3, 11): pytest.skip('Python 3.10 has an older Sphinx', allow_module_level=True)
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from course_backprop.tools.lab import lessons
from test_lab import flags, missing, plays

root = Path(__file__).resolve().parent.parent

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder of the site: what .ci/checks has just built, or a new one"
    out = Path(os.environ.get('BACKPROP_SITE') or tmp_path_factory.mktemp('site'))
    if not (out/'index.html').exists(): subprocess.run([sys.executable, '-m', 'sphinx', '-qW', root/'docs', out], check=True)
    return out

def page_names(site): return sorted(o.relative_to(site).as_posix() for o in site.rglob('*.html') if '_static' not in o.parts)

# Without a browser: links, pictures, what is left out

class Page(HTMLParser):
    "Links, anchors and pictures of a page, and its text"
    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.images, self.text = [], set(), [], path.read_text(encoding='utf-8')
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if 'id' in found: self.ids.add(found['id'])
        if tag == 'a' and 'href' in found: self.links.append(found['href'])
        if tag == 'img': self.images.append(found)
        self.links += [found[o] for o in ('src', 'data-src') if o in found] + ([found['href']] if tag == 'link' and 'href' in found else [])

@pytest.fixture(scope='module')
def pages(site): return {name: Page(site/name) for name in page_names(site)}

def broken(pages, site):
    "Links to a page, an anchor or a file that isn't there, or to a path of a clone"
    for name, page in pages.items():
        for link in page.links:
            path, anchor = urldefrag(link)
            if re.match('[a-z]+:|//', path): continue
            to = unquote(urljoin(name, path.split('?')[0]))
            if to.endswith('.ipynb') and not to.startswith('_sources/') or not (site/to).exists(): yield f'{name}: {link}'
            elif anchor and to in pages and anchor not in pages[to].ids | {'', 'top'}: yield f'{name}: {link}'

def test_links(pages, site): assert list(broken(pages, site)) == []

def wordless(pages): return [f'{name}: {o["src"]}' for name, page in pages.items() for o in page.images if not o.get('alt', '').strip() and 'data-frames' not in o]

def test_every_picture_has_words(pages): assert wordless(pages) == []

def test_all_lessons_are_there(pages):
    assert {o.stem + '.html' for o in lessons(root/'nbs')} | {'index.html', 'reference.html', 'search.html'} <= {*pages}

def test_plumbing_is_left_out(pages):
    assert [name for name, o in pages.items() if re.search(r'default_exp|#\| ?(export|hide)|nbdev_export\(', re.sub('<[^>]+>', '', o.text)) and name[:2].isdigit()] == []

def test_downloads_are_learners_notebooks(site):
    for o in lessons(site/'_sources'): assert not re.search(r'default_exp|"#\| ?export', o.read_text(encoding='utf-8')), o

def test_the_checks_themselves(tmp_path):
    (tmp_path/'a.html').write_text('<h1 id=here>A</h1><a href="#here">1</a><a href="#gone">2</a><a href="b.html">3</a><a href="a.html#here">4</a><a href="https://a.org">5</a>'
                                   '<img src="a.png" alt=""><img src="a.png" alt="a tree"><a href="x.ipynb">6</a>')
    (tmp_path/'a.png').touch()
    (tmp_path/'x.ipynb').touch()
    pages = {'a.html': Page(tmp_path/'a.html')}
    assert list(broken(pages, tmp_path)) == ['a.html: #gone', 'a.html: b.html', 'a.html: x.ipynb']
    assert wordless(pages) == ['a.html: a.png']

# In a browser

class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def address(site):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture(scope='module')
def chromium():
    with sync_playwright() as p:
        path = which('chromium') or p.chromium.executable_path
        if not Path(path).exists(): missing('needs Chromium')
        browser = p.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()

class Reader:
    "A browser that reaches nothing but the site; `refused` are the requests it was refused, `said` the errors of its pages"
    def __init__(self, chromium, address, **kw):
        self.context, self.address, self.refused, self.said = chromium.new_context(viewport=dict(width=1280, height=900), reduced_motion='reduce', **kw), address, [], []
        self.context.route('**/*', self.let)
        self.page = self.context.new_page()
        self.page.on('console', lambda o: self.said.append(o.text) if o.type == 'error' else None)
        self.page.on('pageerror', lambda o: self.said.append(str(o)))

    def let(self, route):
        if route.request.url.startswith((self.address, 'data:', 'blob:')): return route.continue_()
        self.refused.append(route.request.url)
        route.abort()

    def open(self, name):
        self.page.goto(self.address + name, wait_until='load')
        self.page.evaluate('window.MathJax?.startup?.promise')
        return self.page

@pytest.fixture(scope='module')
def reader(chromium, address):
    made = Reader(chromium, address)
    yield made
    made.context.close()

formulas = r"""() => [...document.querySelectorAll('mjx-merror, mjx-mtext[style*="red"]')].map(o => o.textContent).concat(
    [...document.querySelectorAll('.math')].filter(o => !o.querySelector('mjx-container')).map(o => o.textContent))"""
pictures = """() => Promise.all([...document.images].filter(o => o.loading = 'eager').map(o => o.decode().then(() => null, () => o.src))).then(o => o.filter(o => o))"""
too_wide = """() => document.documentElement.scrollWidth > innerWidth ? [...document.querySelectorAll('main *')]
    .filter(o => o.getBoundingClientRect().right > innerWidth + 1 && !o.closest('pre, table, mjx-container, .math')).slice(0, 3).map(o => o.outerHTML.slice(0, 120)).concat(document.documentElement.scrollWidth) : []"""
unfold = "document.querySelectorAll('main details').forEach(o => { o.removeAttribute('name'); o.open = true })"

plain = """() => { const seen = new Set(); for (const o of document.querySelectorAll('pre span')) seen.has(o.className) ? o.replaceWith(...o.childNodes) : seen.add(o.className) }"""

def accessible(page, scheme):
    "axe's findings; of the words of code that have one colour, it looks at the first"
    page.evaluate(plain)
    found = Axe().run(page, options=dict(preload=False) | ({} if scheme == 'light' else dict(runOnly=['color-contrast']))).response
    return [f'{scheme}: {v["id"]}: {o["html"][:200]}: {o["failureSummary"][:200]}' for v in found['violations'] for o in v['nodes'][:3]]

def look(reader, name):
    "What is wrong with a page: formulas, pictures, width, axe's findings in light and dark"
    page = reader.open(name)
    page.set_viewport_size(dict(width=1280, height=900))
    page.evaluate(unfold)
    found = [('formula', o) for o in page.evaluate(formulas)] + [('picture', o) for o in page.evaluate(pictures)]
    for scheme in 'light', 'dark':
        page.evaluate('o => { document.documentElement.dataset.theme = document.documentElement.dataset.mode = o }', scheme)
        found += [('axe', o) for o in accessible(page, scheme)]
    page.set_viewport_size(dict(width=360, height=800))
    return found + [('360 pixels', o) for o in page.evaluate(too_wide)]

def test_every_page(site, reader):
    found = {name: look(reader, name) for name in page_names(site)}
    assert {name: o for name, o in found.items() if o} == {}
    assert reader.refused == [] and reader.said == []

def test_search_finds_transpose(reader):
    page = reader.open('search.html?q=transpose')
    page.locator('#search-results li a[href^="03_linear_grad.html"]').first.wait_for()

def test_films_roll(reader, address):
    "By mouse and by key; and every lesson that plays something has one"
    for path in lessons(root/'nbs'):
        nb = json.loads(path.read_text(encoding='utf-8'))
        code = '\n'.join(''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code')
        count = len(re.findall(r'(?<!def )\b(?:play|step_backward|pencil_network)\(', code))
        if not count: continue
        page = reader.open(path.stem + '.html')
        assert page.locator('.backprop-play').count() == count, path.stem
        for box in page.locator('.backprop-film').all():
            slider, frame = box.locator('input'), box.locator('.frame img')
            def seen(): return frame.evaluate('o => o.style.top'), frame.get_attribute('alt')
            states = [seen()]
            for act in (lambda: slider.press('End'), box.get_by_role('button', name='previous').click, lambda: slider.press('Home'),
                        lambda: box.get_by_role('button', name='next').press('Enter'), lambda: slider.press('ArrowRight')):
                act()
                states.append(seen())
            assert len(set(states[1:])) == 5 and all(a != b for a, b in zip(states, states[1:])), states
            assert all(told for _, told in states)

def test_pencil_network(reader):
    page = reader.open('00_mnist.html')
    chip = page.locator('.backprop-pencil [data-name=w11]')
    chip.press('PageUp')
    assert page.locator('.backprop-pencil .said').all_text_contents() == ['w⁽¹⁾₁₁ moved by 0.5', 'its gradient was 8: promised 8 · 0.5 = 4', 'the loss moved by 4.25']

def test_guesses_hints_and_proofs_open(reader):
    page = reader.open('04_relu_grad.html')
    proof = page.locator('details.folded').last
    assert not proof.evaluate('o => o.open')
    proof.locator('summary').first.click()
    assert proof.evaluate('o => o.open')
    task = page.locator('.task', has_text='Hint 1 of 3').first
    assert not task.get_by_text('Hint 2 of 3').is_visible()
    task.get_by_text('Hint 1 of 3').click()
    assert task.get_by_text('Hint 2 of 3').is_visible() and not task.get_by_text('Hint 3 of 3').is_visible()
    guesses = page.locator('.task', has_text='Your guess?').first.locator('details[name]')
    guesses.nth(0).locator('summary').click()
    guesses.nth(1).locator('summary').press('Enter')
    assert [o.evaluate('o => o.open') for o in guesses.all()[:2]] == [False, True]

def test_code_folds(reader):
    page = reader.open('04_relu_grad.html')
    code = page.locator('.cell_input').nth(3)
    page.get_by_role('button', name='Hide code').click()
    assert not code.is_visible()
    page.get_by_role('button', name='Show code').click()
    assert code.is_visible()

def test_without_scripts(chromium, address):
    "The pictures stand there, and nothing that can't be moved"
    still = Reader(chromium, address, java_script_enabled=False)
    for name in '05_backward.html', '00_mnist.html':
        still.page.goto(address + name)
        assert not any(o.is_visible() for o in still.page.locator('.backprop-play').all())
    still.page.goto(address + '05_backward.html')
    assert still.page.locator('noscript img').first.is_visible()
    still.context.close()

def test_print(reader):
    page = reader.open('04_relu_grad.html')
    page.emulate_media(media='print')
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator('details.folded').last.locator('pre').first.is_visible()
    assert not page.locator('.bd-sidebar-primary').is_visible() and not page.locator('.bd-header-article').is_visible()
    assert len(page.pdf(format='A4')) > 50_000
    page.emulate_media(media='screen')

def test_a_bad_page_is_seen(site, chromium, address):
    "A request to the outside, a formula, a picture, a contrast and a width that are wrong"
    bad = ('<html lang=en><head><title>bad</title></head><body><main><h1>bad</h1><p style="color: #999; background: #aaa">pale</p><span class="math">x^2</span>'
           '<img src="gone.png" alt="gone"><div style="width: 900px">wide</div><img src="https://example.org/a.png" alt="far"></main></body></html>')
    other = Reader(chromium, address)
    other.context.route('**/bad.html', lambda route: route.fulfill(body=bad, content_type='text/html'))
    found = Counter(kind for kind, _ in look(other, 'bad.html'))
    assert found['formula'] == 1 and found['picture'] == 2 and found['axe'] >= 2 and found['360 pixels'] >= 2, found
    assert other.refused == ['https://example.org/a.png'] and other.said
    other.context.close()

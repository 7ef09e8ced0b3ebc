"The site: its pages are the notebooks, as docs/pages.py prepares them. python -m sphinx -W docs _site"
import shutil, sys
from importlib.util import find_spec
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
import pages

project, copyright, author = pages.cfg['title'], pages.cfg['copyright'], pages.cfg['author']
extensions = ['myst_nb', 'sphinx.ext.mathjax']
html_theme, html_title, html_short_title = 'sphinx_book_theme', project, project
html_static_path, html_css_files, html_js_files = ['static'], ['site.css'], ['site.js']
html_theme_options = dict(
    repository_url=pages.cfg['git_url'], use_repository_button=True, use_fullscreen_button=False, home_page_in_toc=True,
    show_toc_level=2, navbar_persistent=[], pygments_light_style='a11y-high-contrast-light', pygments_dark_style='a11y-high-contrast-dark')
html_copy_source, html_show_sourcelink, html_last_updated_fmt = True, False, None
templates_path, html_sidebars = ['templates'], {'**': ['home.html', 'icon-links.html', 'search-button-field.html', 'sbt-sidebar-nav.html']}
html_favicon, html_context = 'static/icon.svg', dict(default_mode='auto')
html_baseurl = pages.cfg['doc_host'] + pages.cfg['doc_baseurl'] + '/'

nb_execution_mode = 'off'
nb_merge_streams = True
nb_code_prompt_show = 'The imports'
nb_code_prompt_hide = 'The imports'
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors = 3
myst_dmath_double_inline = True
mathjax_path = 'mathjax/tex-chtml.js'

def add_mathjax(app, error):
    "MathJax and its fonts, out of the 24 MB that their package has"
    if error: return
    where = Path(find_spec('sphinx-mathjax-offline').submodule_search_locations[0])/'static'/'mathjax'
    to, fonts = Path(app.outdir)/'_static'/'mathjax', 'output/chtml/fonts/woff-v2'
    shutil.copytree(where/fonts, to/fonts, dirs_exist_ok=True)
    shutil.copytree(where/'input'/'tex'/'extensions', to/'input'/'tex'/'extensions', dirs_exist_ok=True)      # \color
    shutil.copy(where/'tex-chtml.js', to)

def setup(app):
    app.srcdir = type(app.srcdir)(pages.make(Path(app.outdir)))
    app.connect('build-finished', add_mathjax)
    app.connect('build-finished', lambda app, error: error or pages.downloads(Path(app.outdir)))
    app.connect('doctree-read', pages.fold)

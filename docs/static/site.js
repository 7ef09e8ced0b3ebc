// Films that move, a button that folds all code, and proofs that are unfolded on paper
document.addEventListener('DOMContentLoaded', () => {
    for (const film of document.querySelectorAll('[data-film]')) roll(film, JSON.parse(film.dataset.film))
    codeButton()
    addEventListener('beforeprint', () => document.querySelectorAll('details.folded').forEach(o => o.open = true))
})

function roll(box, {name, values, says, width, height, start}) {       // frames one below the other in one picture, of which one is seen
    const last = values.length - 1, img = box.querySelector('img')
    box.hidden = false
    box.querySelector('.frame').style.aspectRatio = `${width} / ${height/values.length}`
    const slider = box.querySelector('input'), told = box.querySelector('.told'), [back, on] = box.querySelectorAll('button')
    function show(k) {
        slider.value = k
        img.style.top = `-${100*k}%`
        img.alt = says[k]
        told.textContent = `${name} ${values[k]}`
        slider.setAttribute('aria-valuetext', `${name} ${values[k]}: ${says[k]}`)
        back.disabled = k == 0
        on.disabled = k == last
    }
    slider.addEventListener('input', () => show(+slider.value))
    back.addEventListener('click', () => show(Math.max(+slider.value - 1, 0)))
    on.addEventListener('click', () => show(Math.min(+slider.value + 1, last)))
    show(start)
}

function codeButton() {
    const bar = document.querySelector('.article-header-buttons')
    if (!bar || !document.querySelector('.cell_input')) return
    const button = document.createElement('button')
    Object.assign(button, {type: 'button', className: 'btn btn-sm pst-navbar-icon code-button', textContent: 'Hide code'})
    button.addEventListener('click', () => {
        const hidden = document.body.classList.toggle('no-code')
        button.textContent = hidden ? 'Show code' : 'Hide code'
    })
    bar.prepend(button)
}

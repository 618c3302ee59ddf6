"""A page that shows a fitted model and decodes latent codes in the browser. The public face is `sklatent.report`.

`arrays` packs numbers, `decoders` says how the page decodes, `content` collects what it shows, and `page` joins this
with the HTML, CSS and JavaScript in `assets`.
"""

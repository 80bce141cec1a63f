"""The page's template; in a Python file, because Flower's bundles carry no HTML."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #57606a; --line: #d0d7de; --page: #ffffff; --raised: #f6f8fa;
  --c0: #0969da; --c1: #cf222e; --c2: #1a7f37; --c3: #8250df; --c4: #bc4c00; --c5: #0a7d83; --c6: #a40e6f; --c7: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b3; --line: #3d444d; --page: #0d1117;
  --raised: #161b22; --c0: #58a6ff; --c1: #ff7b72; --c2: #56d364; --c3: #bc8cff; --c4: #ffa657; --c5: #39c5cf;
  --c6: #f778ba; --c7: #9da7b3; } }
* { box-sizing: border-box } body { margin: 0 auto; max-width: 1080px; padding: 1rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif } h1 { font-size: 1.5rem; margin: 0 }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem } .soft, .none { color: var(--soft) }
.wide { overflow-x: auto } table { border-collapse: collapse } th, td { padding: .25rem .6rem; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap } th:first-child, td:first-child { text-align: left }
.charts { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)) }
.wide { margin-bottom: 1rem } figure { margin: 0 } figcaption { font-weight: 600 } svg { width: 100%; height: auto; font-size: 12px }
svg text { fill: var(--soft) } .end { text-anchor: end } .middle { text-anchor: middle } .axes line { stroke: var(--line) }
svg polyline, svg path { fill: none; stroke: currentColor; stroke-width: 2 } svg circle { fill: currentColor }
.c0 { color: var(--c0) } .c1 { color: var(--c1) } .c2 { color: var(--c2) } .c3 { color: var(--c3) }
.c4 { color: var(--c4) } .c5 { color: var(--c5) } .c6 { color: var(--c6) } .c7 { color: var(--c7) }
.f0 { fill: var(--c0); background: var(--c0) } .f1 { fill: var(--c1); background: var(--c1) }
.f2 { fill: var(--c2); background: var(--c2) } .f3 { fill: var(--c3); background: var(--c3) }
.f4 { fill: var(--c4); background: var(--c4) } .f5 { fill: var(--c5); background: var(--c5) }
.f6 { fill: var(--c6); background: var(--c6) } .f7 { fill: var(--c7); background: var(--c7) }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .25rem 0; padding: 0; font-size: .85rem }
.legend span { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .35rem }
details { margin: .5rem 0 } summary { cursor: pointer } pre { background: var(--raised); padding: .75rem; overflow-x: auto }
.compare { position: relative; max-width: 640px } .compare img { display: block; width: 100%; height: auto }
.stage { position: relative } [hidden] { display: none !important } .compare .over { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at, 50%)) }
.compare input { width: 100% } .compare label { display: block; margin-top: .3rem } .who td + td + td { text-align: center; padding: .1rem .3rem } .who td, .who th { text-align: left }
.who .yes { background: var(--c2); color: var(--page) } .who .no { background: var(--c1); color: var(--page) }
.problem { color: var(--c1) } .made td { text-align: left; white-space: normal; overflow-wrap: anywhere }
:focus-visible { outline: 3px solid var(--c0); outline-offset: 2px }
"""

SCRIPT = """
document.querySelectorAll('.compare input').forEach(function (slider) {
  var box = slider.closest('.compare').querySelector('.stage');
  function move() { box.style.setProperty('--at', slider.value + '%'); }
  slider.addEventListener('input', move);
  box.addEventListener('pointermove', function (event) {
    var edge = box.getBoundingClientRect();
    slider.value = Math.round(100 * (event.clientX - edge.left) / edge.width); move();
  });
  move();
});
document.querySelectorAll('.compare select').forEach(function (choice) {
  function show() {
    choice.closest('.compare').querySelectorAll('.under').forEach(function (image) {
      image.hidden = image.dataset.panel !== choice.value;
    });
  }
  choice.addEventListener('change', show); show();
});
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}{% if not final %} (running){% endif %}</title>
{{ refresh }}
<style>{{ style }}</style></head><body>
<header><h1>{{ name }}</h1>
<p class="soft" role="status">{{ state }}:
round {{ rounds }} of {{ rounds_planned }}, preset {{ config.model.preset }}, seed {{ config.seed }}, written {{ written }}.</p></header>
<main>
<h2>Held-out images</h2>
{% if tasks %}<div class="wide" role="region" aria-label="scores of each task" tabindex="0"><table><thead><tr><th>task</th><th>last dB</th><th>gain over input</th><th>input dB</th><th>first dB</th>
<th>SSIM, last</th><th>SSIM, input</th><th>images</th><th>after round</th></tr></thead><tbody>
{% for row in tasks %}<tr><td>{{ row.task }}</td><td>{{ '%.2f' % row.last.psnr_db }}</td><td>{{ '%+.2f' % row.gain_db }}</td>
<td>{{ '%.2f' % row.last.input_psnr_db }}</td><td>{{ '%.2f' % row.first.psnr_db }}</td><td>{{ '%.4f' % row.last.ssim }}</td>
<td>{{ '%.4f' % row.last.input_ssim }}</td><td>{{ row.last.images }}</td><td>{{ row.last.round }}</td></tr>{% endfor %}
</tbody></table></div>{% else %}<p class="none">No evaluation yet.</p>{% endif %}
<div class="charts">
<figure><figcaption>PSNR by half cycle, dB</figcaption>{{ psnr }}</figure>
<figure><figcaption>SSIM by half cycle</figcaption>{{ ssim }}</figure></div>
<p class="soft">Crosses after task-specific phases, dots after task-agnostic ones and before training.</p>
{% if pictures %}<h2>Degraded, restored, clean</h2><div class="charts">{% for picture in pictures %}
<figure class="compare"><figcaption>{{ picture.name }}</figcaption>
<div class="stage">
{% for panel in ('degraded', 'clean', 'restored') %}<img class="{{ 'over' if panel == 'restored' else 'under' }}" data-panel="{{ panel }}"{% if panel == 'clean' %} hidden{% endif %} src="{{ picture.panels[panel] }}" width="{{ picture.width }}" height="{{ picture.height }}" alt="{{ picture.name }}: {{ panel }} image">
{% endfor %}</div>
<label>left of the edge: <select><option>degraded</option><option>clean</option></select>, right of it: restored</label>
<input type="range" min="0" max="100" value="50" aria-label="{{ picture.name }}: edge between the left image and the restored one, per cent">
</figure>{% endfor %}</div>
{% else %}<p class="soft">No images: they stay with the clients that hold them.</p>{% endif %}
<h2>Training</h2><div class="charts">
<figure><figcaption>Mean loss of each round</figcaption>{{ loss }}</figure>
<figure><figcaption>MiB by direction and phase</figcaption>{{ traffic }}</figure>
<figure><figcaption>Seconds by where they went</figcaption>{{ times }}</figure></div>
<h2>Who took part</h2>
{% if problems %}<details{% if problems|length < 6 %} open{% endif %}><summary class="problem">Left out: {{ problems|length }}</summary>
<ul>{% for problem in problems %}<li class="problem">{{ problem }}</li>{% endfor %}</ul></details>
{% else %}<p>Nobody was left out.</p>{% endif %}
<p class="soft">✓ trained, ✗ failed, – not asked.</p>
<div class="wide" role="region" aria-label="who took part in which round" tabindex="0"><table class="who"><thead><tr><th>client</th><th>task</th>{% for number, phase in who_rounds %}<th title="{{ phase }}">{{ number }}</th>{% endfor %}</tr></thead><tbody>
{% for client, task, cells in who %}<tr><td>{{ client }}</td><td>{{ task }}</td>{% for cell in cells %}<td{{ marks[cell] }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<h2>What made it</h2>
<table class="made"><tbody>{% for key, value in provenance.items() %}<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>{% endfor %}</tbody></table>
<details><summary>Configuration</summary><pre tabindex="0">{{ config_text }}</pre></details>
</main><script>{{ script }}</script></body></html>
"""

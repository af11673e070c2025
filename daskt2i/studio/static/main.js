// Which view is shown for which run; the keys that work everywhere.
import {json, say} from './api.js';
import * as runs from './runs.js';
import * as training from './training.js';
import * as draw from './draw.js';

const VIEWS = {runs, training, draw};
const main = document.getElementById('main'), chooser = document.getElementById('run');
let shown = null, known = [];

// '#/training/demo' -> ['training', 'demo']
const place = () => location.hash.replace(/^#\//, '').split('/').map(decodeURIComponent);

export async function refreshRuns() {
  known = (await json('api/runs')).runs;
  const now = place()[1];
  const names = known.map(one => one.name);
  if (names.join('\n') !== [...chooser.options].map(one => one.value).join('\n'))
    chooser.replaceChildren(...names.map(name => new Option(name, name)));
  if (names.includes(now)) chooser.value = now;
  for (const link of document.querySelectorAll('[data-view]'))
    chooser.value ? link.href = `#/${link.dataset.view}/${encodeURIComponent(chooser.value)}` : link.removeAttribute('href');
  return known;
}

async function show() {
  shown?.close?.();
  shown = null;
  let [name, run] = place();
  if (!(name in VIEWS)) name = 'runs';
  for (const link of document.querySelectorAll('nav a'))
    link.toggleAttribute('aria-current', link.hash.split('/')[1] === name || link.dataset.view === name);
  main.replaceChildren(document.getElementById(`view-${name}`).content.cloneNode(true));
  document.title = `${run ? run + ' – ' : ''}daskt2i studio`;
  try {
    const list = await refreshRuns();
    say('');
    shown = await VIEWS[name].open(main, run ?? chooser.value, list);
  } catch (error) { say(error.message); }
}

chooser.addEventListener('change', () => {
  const [name] = place();
  location.hash = `#/${name === 'runs' || !name ? 'training' : name}/${encodeURIComponent(chooser.value)}`;
});
addEventListener('hashchange', show);
addEventListener('keydown', event => {
  if (event.key === '/' && !/INPUT|TEXTAREA|SELECT/.test(document.activeElement.tagName)) {
    const field = main.querySelector('textarea, input[type=search]');
    if (field) { event.preventDefault(); field.focus(); }
  }
});
show();

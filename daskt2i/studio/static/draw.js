// Draw while somebody types: a preview in few steps at once, the whole picture when the typing rests.
import {count, json, of, post, say, visitor} from './api.js';
import {settingsIn} from './png.js';

const REST = 450;      // milliseconds without a key before the whole picture is drawn
const KEPT = 48;       // pictures of the history

export async function open(main, run) {
  const $ = id => main.querySelector(`#${id}`);
  if (!run) throw new Error('There is no run to draw with yet. Train one first, and choose it above.');
  const prompt = $('prompt'), preview = $('preview'), said = $('said'), film = $('film'), history = $('history'), progress = $('progress');
  const list = $('suggestions'), given = (await json(of(run))).sample;
  let picked = -1, asking;
  $('seed').value = given.seed; $('steps').value = given.steps; $('guidance').value = given.guidance;
  let busy = false, again = false, resting, whole = null, closed = false, last = '', drawn = null;

  const number = id => $(id).value === '' ? null : Number($(id).value);
  const wish = () => ({visitor, prompt: prompt.value, seed: number('seed'), guidance: number('guidance')});
  function show(source, alt) {
    if (last.startsWith('blob:')) URL.revokeObjectURL(last);
    preview.src = last = source;
    preview.alt = alt;
  }

  // One preview at a time: the running one ends, then the newest text is drawn. Ending it at each key shows nothing in fast typing.
  async function draft() {
    if (!prompt.value.trim()) return;
    if (busy) { again = true; return; }
    busy = true;
    const text = prompt.value, begun = performance.now();
    try {
      const answer = await post(of(run, '/preview'), wish());
      if (answer.status === 200 && !closed && drawn !== text) {  // the whole picture may be there already
        show(URL.createObjectURL(await answer.blob()), `Preview: ${text}`);
        said.textContent = `Preview in ${Math.round(performance.now() - begun)} ms`;
        say('');
      }
    } catch (error) { said.textContent = error.message; }
    busy = false;
    if (again && !closed) { again = false; draft(); }
  }
  function typed() {
    whole?.abort();
    drawn = null;
    clearTimeout(resting);
    resting = setTimeout(make, REST);
    draft();
    complete();
  }

  async function make() {
    clearTimeout(resting);
    whole?.abort();
    if (!prompt.value.trim()) { said.textContent = 'Write what the picture should show.'; return; }
    const own = whole = new AbortController(), text = prompt.value;
    again = false;
    film.replaceChildren();
    $('stop').hidden = false;
    try {
      const answer = await post(of(run, '/pictures'), {...wish(), steps: number('steps'), count: number('count')}, own.signal);
      for await (const line of lines(answer)) {
        if (own.signal.aborted) return;
        if (line.error) throw new Error(line.error.message);
        if (line.place) said.textContent = `${count(line.place)} before you`;
        if (line.step) {
          progress.max = line.of; progress.value = line.step;
          film.append(Object.assign(new Image(), {src: line.picture, alt: `Step ${line.step} of ${line.of}`}));
        }
        if (line.pictures) done(line.pictures, text);
      }
    } catch (error) { if (error.name !== 'AbortError') said.textContent = error.message; }
    if (whole === own) { $('stop').hidden = true; progress.value = 0; whole = null; }
  }
  function done(pictures, text) {
    const made = pictures.map(one => ({...one, source: `data:image/png;base64,${one.png}`}));
    drawn = text;
    show(made[0].source, text);
    $('caption').textContent = `${text}, seed ${made[0].about.Seed}, ${made[0].about.Steps} steps`;
    said.textContent = made.length > 1 ? `${made.length} pictures are drawn.` : 'Drawn.';
    for (const one of made.toReversed()) history.prepend(card(one));
    while (history.childElementCount > KEPT) history.lastElementChild.remove();
  }
  function card(one) {
    const holder = document.createElement('div'), button = document.createElement('button'), about = one.about;
    holder.role = 'listitem';
    button.type = 'button';
    button.append(Object.assign(new Image(), {src: one.source, alt: `${about.Prompt}, seed ${about.Seed}`}),
      Object.assign(document.createElement('span'), {textContent: about.Prompt}));
    button.addEventListener('click', () => { show(one.source, about.Prompt); $('caption').textContent = `${about.Prompt}, seed ${about.Seed}, ${about.Steps} steps`; take(about); });
    const link = Object.assign(document.createElement('a'), {href: one.source, download: `${about.Prompt.slice(0, 40).replace(/\W+/g, '-')}-seed${about.Seed}.png`, textContent: 'Download'});
    link.className = 'hint';
    holder.append(button, link);
    return holder;
  }
  function take(about) {
    prompt.value = about.Prompt ?? prompt.value;
    for (const [id, name] of [['seed', 'Seed'], ['steps', 'Steps'], ['guidance', 'Guidance']]) if (about[name] !== undefined) $(id).value = about[name];
  }

  // Suggestions: captions of the data set that go on from what was typed.
  const opened = yes => { list.hidden = !yes; prompt.ariaExpanded = String(yes); if (!yes) prompt.removeAttribute('aria-activedescendant'); };
  async function complete() {
    asking?.abort();
    asking = new AbortController();
    try {
      const query = new URLSearchParams({text: prompt.value});
      const found = (await json(of(run, `/suggest?${query}`), {signal: asking.signal})).suggestions;
      picked = -1;
      list.replaceChildren(...found.map((one, at) => {
        const item = Object.assign(document.createElement('li'), {role: 'option', id: `suggestion-${at}`, textContent: one.text, ariaSelected: 'false'});
        item.addEventListener('mousedown', event => { event.preventDefault(); accept(one.text); });
        return item;
      }));
      opened(found.length > 0 && document.activeElement === prompt);
    } catch { opened(false); }
  }
  function draw() { asking?.abort(); opened(false); make(); }
  function accept(text) { prompt.value = text; typed(); }
  prompt.addEventListener('keydown', event => {
    const items = list.children;
    if (event.key === 'Escape') { opened(false); return; }
    if (!list.hidden && items.length && (event.key === 'ArrowDown' || event.key === 'ArrowUp')) {
      event.preventDefault();
      if (picked >= 0) items[picked].ariaSelected = 'false';
      picked = (picked + (event.key === 'ArrowDown' ? 1 : -1) + items.length) % items.length;
      items[picked].ariaSelected = 'true';
      prompt.setAttribute('aria-activedescendant', items[picked].id);
    } else if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      if (!list.hidden && picked >= 0) accept(items[picked].textContent); else draw();
    } else if (event.key === 'Tab' && !list.hidden && picked >= 0) { event.preventDefault(); accept(items[picked].textContent); }
  });
  prompt.addEventListener('blur', () => opened(false));
  prompt.addEventListener('input', typed);
  for (const id of ['seed', 'guidance']) $(id).addEventListener('input', () => { draft(); });
  $('make').addEventListener('click', draw);
  $('stop').addEventListener('click', () => { whole?.abort(); $('stop').hidden = true; progress.value = 0; said.textContent = 'Stopped.'; });
  $('dice').addEventListener('click', () => { $('seed').value = Math.floor(Math.random() * 2 ** 31); typed(); });

  const drop = history.closest('.panel');
  drop.addEventListener('dragover', event => event.preventDefault());
  drop.addEventListener('drop', async event => {
    event.preventDefault();
    const file = event.dataTransfer.files[0];
    const about = file && await settingsIn(file);
    if (about?.Prompt) { take(about); said.textContent = 'The settings of this picture are read.'; make(); }
    else said.textContent = 'This file is not a PNG picture of daskt2i, so nothing was read.';
  });
  prompt.focus();
  if (prompt.value) typed();  // somebody was faster than the page
  return {close() { closed = true; whole?.abort(); clearTimeout(resting); }};
}

async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const {value, done} = await reader.read();
    rest += value ?? '';
    const whole = rest.split('\n');
    rest = whole.pop();
    for (const line of whole) if (line) yield JSON.parse(line);
    if (done) return;
  }
}

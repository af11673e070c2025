// One training: its curves, and the pictures that it drew on the way.
import {count, json, of, post, say, url} from './api.js';
import {Curve, part} from './curve.js';

const SECONDS = 2;

export async function open(main, run, list) {
  const $ = id => main.querySelector(`#${id}`);
  if (!run) { main.querySelector('.empty').hidden = false; main.querySelectorAll('.panel').forEach(one => one.hidden = true); return {}; }
  const figure = $('figure'), axis = $('axis'), other = $('other'), log = $('log'), whole = $('whole'), slider = $('step');
  let state = null, zoom = null, timer, seen = '', pinned = false, steps = [], otherSteps = [];
  const batches = Object.fromEntries(list.filter(one => one.training).map(one => [one.name, one.training.batch]));
  for (const one of list) if (one.name !== run && !one.problem) other.append(new Option(one.name, one.name));
  const curve = new Curve($('curve'), (first, last) => { zoom = [first, last]; whole.hidden = false; paint(); });

  const scale = name => axis.value === 'samples' ? batches[name] ?? 1 : 1;
  async function line(name, which, colour) {
    const by = scale(name);
    const found = await part(name, which, zoom && zoom[0] / by, zoom && zoom[1] / by);
    return {...found, x: by === 1 ? found.step : found.step.map(one => one * by), colour, label: `${name}: ${which}`};
  }
  async function paint() {
    const which = figure.value || 'loss';
    const lines = [await line(run, which, '--accent')];
    if (other.value) lines.push(await line(other.value, which, '--warn'));
    curve.show(lines, axis.value, log.checked);
    $('curve').setAttribute('aria-label', `${which} against ${axis.value}`);
    const legend = lines.map((one, number) => {
      const key = Object.assign(document.createElement('i'), {className: number ? 'key other' : 'key'});
      const last = one.mean.at(-1);
      return [key, `${one.label}${last === undefined ? ': not measured' : `, last ${last.toPrecision(4)}`}`];
    });
    $('legend').replaceChildren(...legend.flat(), document.createTextNode(' The band goes from the smallest to the largest value. Drag over steps to see them larger.'));
  }
  async function look() {
    state = await json(of(run));
    const {step, steps: most, figures} = state.training;
    $('state').textContent = step ? `step ${count(step)} of ${count(most)}${state.store?.running ? `, ${state.store.running}` : ''}` : '';
    main.querySelector(':scope > .empty').hidden = Boolean(step || state.sheets.length);
    const names = Object.keys(figures);
    if (names.join() !== [...figure.options].map(one => one.value).join()) {
      const chosen = figure.value || 'loss';
      figure.replaceChildren(...names.map(name => new Option(name.replaceAll('_', ' '), name)));
      if (names.includes(chosen)) figure.value = chosen;
    }
    const mark = JSON.stringify([figures, other.value]);
    if (mark !== seen && !zoom) await paint();
    seen = mark;
    fillSheets(state.sheets);
  }
  function fillSheets(found) {
    $('no-sheets').hidden = found.length > 0;
    $('gallery').hidden = !found.length;
    if (found.join() === steps.join() || !found.length) return;
    if (found.length > steps.length) $('asked').textContent = steps.length ? `Step ${count(found.at(-1))} is drawn.` : '';
    steps = found;
    slider.max = steps.length - 1;
    if (!pinned) slider.value = steps.length - 1;
    showSheet();
  }
  function showSheet() {
    const step = steps[slider.value];
    $('step-shown').textContent = count(step);
    slider.setAttribute('aria-valuetext', `step ${count(step)}`);
    picture($('sheet'), run, step);
    const near = otherSteps.length && otherSteps.reduce((best, one) => Math.abs(one - step) < Math.abs(best - step) ? one : best);
    $('sheet-other').closest('figure').hidden = !otherSteps.length;
    if (otherSteps.length) picture($('sheet-other'), other.value, near);
  }
  function picture(image, name, step) {
    image.src = url(of(name, `/sheets/${step}`));
    image.alt = `Pictures of ${name} at step ${count(step)}`;
    image.nextElementSibling.textContent = `${name}, step ${count(step)}`;
  }
  async function again() {
    if (!document.hidden) try { await look(); say(''); } catch (error) { say(error.message); }
    timer = setTimeout(again, SECONDS * 1000);
  }
  const request = what => async () => {
    try { await post(of(run, `/requests/${what}`)); $('asked').textContent = what === 'stop' ? 'Asked to end with a checkpoint and a model.' : 'Asked; the training draws at its next step.'; }
    catch (error) { say(error.message); }
  };
  for (const one of [figure, axis, log]) one.addEventListener('change', () => { zoom = null; whole.hidden = true; paint(); });
  other.addEventListener('change', async () => {
    otherSteps = other.value ? (await json(of(other.value))).sheets : [];
    await paint();
    if (steps.length) showSheet();
  });
  whole.addEventListener('click', () => { zoom = null; whole.hidden = true; paint(); });
  slider.addEventListener('input', () => { pinned = Number(slider.value) < steps.length - 1; showSheet(); });
  $('now').addEventListener('click', request('pictures'));
  $('end').addEventListener('click', request('stop'));
  await look();
  timer = setTimeout(again, SECONDS * 1000);
  return {close() { clearTimeout(timer); curve.close(); }};
}

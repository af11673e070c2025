// The list of runs, read again every few seconds.
import {count, say} from './api.js';
import {refreshRuns} from './main.js';

const SECONDS = 4;

export async function open(main, run, list) {
  const body = main.querySelector('tbody'), empty = main.querySelector('.empty'), table = main.querySelector('.scroller');
  let timer;
  function fill(runs) {
    empty.hidden = runs.length > 0;
    table.hidden = !runs.length;
    body.replaceChildren(...runs.map(line));
  }
  async function again() {
    if (!document.hidden) try { fill(await refreshRuns()); say(''); } catch (error) { say(error.message); }
    timer = setTimeout(again, SECONDS * 1000);
  }
  fill(list);
  timer = setTimeout(again, SECONDS * 1000);
  return {close: () => clearTimeout(timer)};
}

function line(run) {
  const row = document.createElement('tr'), link = document.createElement('a');
  link.href = `#/training/${encodeURIComponent(run.name)}`;
  link.textContent = run.name;
  const name = cell(link, run.out);
  if (run.problem) { row.append(name, Object.assign(cell(run.problem), {colSpan: 4})); return row; }
  row.append(name, cell(run.workflow), cell(...rows(run.store)), cell(...trained(run)), cell(run.store?.running || 'at rest'));
  return row;
}
function rows(store) {
  if (!store) return ['not encoded'];
  const rejected = Object.entries(store.rejected).map(([why, number]) => `${count(number)} ${why}`).join(', ');
  return [`${count(store.rows_done)} of ${count(store.rows)}`, rejected && `rejected: ${rejected}`];
}
function trained(run) {
  const {step, steps} = run.training;
  return [step ? `step ${count(step)} of ${count(steps)}` : 'not trained'];
}
function cell(text, small) {
  const made = document.createElement('td');
  made.append(text);
  if (small) made.append(Object.assign(document.createElement('small'), {textContent: small}));
  return made;
}

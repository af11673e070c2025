// Questions to the server. All addresses are relative, so the page also works behind a proxy's prefix.
const base = new URL('.', document.baseURI);
export const url = path => new URL(path, base);
export const visitor = crypto.randomUUID ? crypto.randomUUID() : String(Math.random());

const trouble = document.getElementById('trouble');
// One sentence at the top of the page, until something works again.
export function say(text) { trouble.textContent = text; trouble.hidden = !text; }

export async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(url(path), options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The studio does not answer. It may have been ended; start it again, and this page goes on.');
  }
  if (answer.ok || answer.status === 499) return answer;
  const text = await answer.text();
  let said = text;
  try { said = JSON.parse(text).error.message; } catch { /* plain text */ }
  throw new Error(said || `The studio answered ${answer.status}.`);
}
export const json = async (path, options) => (await ask(path, options)).json();
export const post = (path, value, signal) => ask(path, {
  method: 'POST', signal, headers: {'Content-Type': 'application/json'}, body: JSON.stringify(value ?? {}),
});
export const of = (run, rest = '') => `api/runs/${encodeURIComponent(run)}${rest}`;
export const count = number => number.toLocaleString('en');

// The text that a PNG file holds (iTXt, as daskt2i writes it).
const MOST = 64 * 2 ** 20;

export async function settingsIn(file) {
  if (file.size > MOST) return null;
  const view = new DataView(await file.arrayBuffer()), found = {};
  if (view.byteLength < 8 || view.getUint32(0) !== 0x89504e47) return null;
  for (let at = 8; at + 12 <= view.byteLength;) {
    const size = view.getUint32(at), kind = view.getUint32(at + 4);
    if (at + 12 + size > view.byteLength) break;
    if (kind === 0x69545874) {  // iTXt: name, 0, compressed?, method, language, 0, translated name, 0, text
      const data = new Uint8Array(view.buffer, at + 8, size), name = data.indexOf(0);
      const language = data.indexOf(0, name + 3), translated = data.indexOf(0, language + 1);
      const text = new TextDecoder();
      if (name > 0 && !data[name + 1] && language > 0 && translated > 0)
        found[text.decode(data.subarray(0, name))] = text.decode(data.subarray(translated + 1));
    }
    at += 12 + size;
  }
  return found;
}

/**
 * What both widgets are made of; it stands before each of them in its module. Texts are English, or whatever the
 * language pack of the JupyterLab makes of them that the page is one of.
 */

const ENGLISH = {
  __: (text, ...values) => filled(text, values),
  _n: (one, many, count, ...values) => filled(count === 1 ? one : many, [count, ...values])
};

function filled(text, values) {
  return text.replace(/%(\d)/g, (place, number) => values[number - 1] ?? place);
}

/** The translator that our extension of the page's JupyterLab has, if there is one. */
function translator() {
  const asked = new CustomEvent('jupyter-gpuaas:translator', { detail: {} });
  document.dispatchEvent(asked);
  return asked.detail.trans ?? ENGLISH;
}

function amount(trans, bytes) {
  const told = count => count.toFixed(count >= 10 ? 0 : 1);
  if (bytes < 1e3) {
    return trans.__('%1 B', bytes);
  }
  if (bytes < 1e6) {
    return trans.__('%1 KB', told(bytes / 1e3));
  }
  if (bytes < 1e9) {
    return trans.__('%1 MB', told(bytes / 1e6));
  }
  return bytes < 1e12 ? trans.__('%1 GB', told(bytes / 1e9)) : trans.__('%1 TB', (bytes / 1e12).toFixed(1));
}

function duration(trans, seconds) {
  return seconds < 1
    ? trans.__('%1 ms', (1000 * seconds).toFixed(seconds >= 0.01 ? 0 : 1))
    : trans.__('%1 s', seconds.toFixed(seconds < 10 ? 1 : 0));
}

function element(parent, tag, className, text) {
  const made = document.createElement(tag);
  if (className) {
    made.className = className;
  }
  if (text !== undefined) {
    made.textContent = text;
  }
  parent.append(made);
  return made;
}

/** A button; what it is read out as, where its label alone does not say what it acts on. */
function button(parent, label, onClick, spoken = undefined) {
  const made = element(parent, 'button', '', label);
  made.type = 'button';
  if (spoken !== undefined) {
    made.setAttribute('aria-label', spoken);
  }
  made.addEventListener('click', onClick);
  return made;
}

/** Address of our extension on this page's Jupyter server; null where it is no page of one. */
function address() {
  const config = document.getElementById('jupyter-config-data');
  try {
    const base = JSON.parse(config?.textContent ?? '{}').baseUrl;
    return typeof base === 'string' ? new URL(`${base}jupyter-gpuaas/`, location.href) : null;
  } catch {
    return null;
  }
}

/** One request to our extension; what it refuses is thrown in its own words. */
async function ask(base, path, method = 'GET', body = undefined) {
  const asked = { method, credentials: 'same-origin', headers: {} };
  if (method !== 'GET') {
    const token = /(?:^|; )_xsrf=([^;]*)/.exec(document.cookie)?.[1];
    asked.headers = token ? { 'X-XSRFToken': token } : {};
    asked.body = JSON.stringify(body ?? {});
  }
  const answer = await fetch(new URL(path, base), asked);
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const status = translator().__('The server answered with status %1.', answer.status);
    throw new Error([content.message ?? status, content.hint].filter(Boolean).join(' '));
  }
  return content;
}

function sessionPath(session, ...more) {
  return ['v1/sessions', ...[session, ...more].map(encodeURIComponent)].join('/');
}


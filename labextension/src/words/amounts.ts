/** Amounts, times and durations as people say them. The same words as `jupyter_gpuaas.model.words`. */

import type { TranslationBundle } from '@jupyterlab/translation';

type Trans = Pick<TranslationBundle, '__'>;

export function amount(trans: Trans, bytes: number): string {
  let count = bytes;
  for (const said of [bytesSaid, kilobytesSaid, megabytesSaid, gigabytesSaid]) {
    if (count < 1000) {
      return said(trans, count.toFixed(said === bytesSaid || count >= 10 ? 0 : 1));
    }
    count /= 1000;
  }
  return trans.__('%1 TB', count.toFixed(1));
}

const bytesSaid = (trans: Trans, count: string): string => trans.__('%1 B', count);
const kilobytesSaid = (trans: Trans, count: string): string => trans.__('%1 KB', count);
const megabytesSaid = (trans: Trans, count: string): string => trans.__('%1 MB', count);
const gigabytesSaid = (trans: Trans, count: string): string => trans.__('%1 GB', count);

/** Used and whole memory with one unit: `34/141 GB`. */
export function share(trans: Trans, used: number, whole: number): string {
  const size = whole >= 1e9 ? 1e9 : 1e6;
  const told = (bytes: number): string => (bytes / size).toFixed(bytes / size < 9.95 ? 1 : 0);
  return size === 1e9
    ? trans.__('%1/%2 GB', told(used), told(whole))
    : trans.__('%1/%2 MB', told(used), told(whole));
}

/** A part of something as people say it: `0.5`, `0.33`. */
export function part(count: number): string {
  return String(Number(count.toPrecision(2)));
}

export function duration(trans: Trans, seconds: number): string {
  if (seconds < 0.9995) {
    return trans.__('%1 ms', (seconds * 1000).toFixed(seconds >= 0.01 ? 0 : 1));
  }
  if (seconds < 100) {
    return trans.__('%1 s', seconds.toFixed(seconds < 10 ? 1 : 0));
  }
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) {
    return trans.__('%1 min', minutes);
  }
  const hours = Math.round(minutes / 60);
  return hours < 72 ? trans.__('%1 h', hours) : trans.__('%1 d', Math.round(hours / 24));
}

/** Hours with as many decimals as are worth being told. */
export function amountOfHours(seconds: number): string {
  const count = seconds / 3600;
  return count.toFixed(count < 0.1 ? 3 : count < 10 ? 2 : 1);
}

/** How long something has lasted, without decimals: `3 s`, `12 min`, `5 h`. */
export function age(trans: Trans, seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 100 ? trans.__('%1 s', whole) : duration(trans, whole);
}

/** A time of day; with its date where it is not of today. As it is written where the browser is. */
export function when(time_s: number, now_s: number): string {
  const time = new Date(time_s * 1000);
  const clock = { hour: '2-digit', minute: '2-digit', second: '2-digit' } as const;
  const isToday = new Date(now_s * 1000).toDateString() === time.toDateString();
  return isToday
    ? time.toLocaleTimeString([], clock)
    : time.toLocaleString([], { year: 'numeric', month: 'numeric', day: 'numeric', ...clock });
}

/** The last signs of an id, which tell two checkpoints of a session apart. */
export function shortId(id: string): string {
  return id.slice(-8);
}

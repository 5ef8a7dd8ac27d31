/** Amounts, times and durations as people say them. The same words as `jupyter_gpuaas.model.words`. */

export function amount(bytes: number): string {
  let count = bytes;
  for (const unit of ['B', 'KB', 'MB', 'GB']) {
    if (count < 1000) {
      return `${count.toFixed(unit === 'B' || count >= 10 ? 0 : 1)} ${unit}`;
    }
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

/** Used and whole memory with one unit: `34/141 GB`. */
export function share(used: number, whole: number): string {
  const [size, unit] = whole >= 1e9 ? [1e9, 'GB'] : [1e6, 'MB'];
  const told = (bytes: number): string => (bytes / size).toFixed(bytes / size < 9.95 ? 1 : 0);
  return `${told(used)}/${told(whole)} ${unit}`;
}

export function duration(seconds: number): string {
  if (seconds < 0.9995) {
    return `${(seconds * 1000).toFixed(seconds >= 0.01 ? 0 : 1)} ms`;
  }
  if (seconds < 100) {
    return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  }
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min` : hours(minutes);
}

function hours(minutes: number): string {
  const whole = Math.round(minutes / 60);
  return whole < 72 ? `${whole} h` : `${Math.round(whole / 24)} d`;
}

/** Hours with as many decimals as are worth being told. */
export function amountOfHours(seconds: number): string {
  const count = seconds / 3600;
  return count.toFixed(count < 0.1 ? 3 : count < 10 ? 2 : 1);
}

/** How long something has lasted, without decimals: `3 s`, `12 min`, `5 h`. */
export function age(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 100 ? `${whole} s` : duration(whole);
}

/** A time of day; with its date where it is not of today. */
export function when(time_s: number, now_s: number): string {
  const time = new Date(time_s * 1000);
  const clock = time.toLocaleTimeString([], {
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit'
  });
  const today = new Date(now_s * 1000).toDateString() === time.toDateString();
  return today ? clock : `${time.toLocaleDateString()} ${clock}`;
}

/** The last signs of an id, which tell two checkpoints of a session apart. */
export function shortId(id: string): string {
  return id.slice(-8);
}

/** Notices about what was asked for: under way, done, or why not. What failed stays until it is dismissed. */

import { Notification } from '@jupyterlab/apputils';

import { wordsOf } from '../api/problem';

/** Do something that takes a while, and say how it went. */
export async function telling<T>(
  doing: string,
  work: () => Promise<T>,
  done: (result: T) => string
): Promise<T | null> {
  const id = Notification.emit(doing, 'in-progress', { autoClose: false });
  try {
    const result = await work();
    Notification.update({ id, message: done(result), type: 'success', autoClose: 5000 });
    return result;
  } catch (error) {
    Notification.update({ id, message: wordsOf(error), type: 'error', autoClose: false });
    return null;
  }
}

/** Do something that is over at once, and say so only where it was refused. */
export async function trying<T>(work: () => Promise<T>): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    Notification.error(wordsOf(error), { autoClose: false });
    return null;
  }
}

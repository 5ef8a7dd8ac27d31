/** Notices about what was asked for: under way, done, or why not. What failed stays until it is dismissed. */

import { Dialog, Notification, showDialog } from '@jupyterlab/apputils';

import { wordsOf } from '../api/problem';

/** JupyterLab shows so many characters of a notice. */
const SHOWN = 140;

export interface IFailure {
  readonly message: string;
  readonly type: 'error';
  readonly actions: Notification.IAction[];
  readonly autoClose: false;
}

/** A notice of a failure; what it has no room for comes in a dialog when it is asked for. */
export function failure(message: string): IFailure {
  const showAll: Notification.IAction = {
    label: Dialog.translator.load('jupyter_gpuaas').__('Show all'),
    callback: event => {
      event.preventDefault(); // The notice stays.
      void showDialog({ body: message, buttons: [Dialog.okButton()] });
    }
  };
  const actions = message.length > SHOWN ? [showAll] : [];
  return { message, type: 'error', actions, autoClose: false };
}

/** What takes no longer is told when it is over only. */
const GRACE_MS = 1000;

/**
 * Do something that takes a while, and say how it went.
 *
 * JupyterLab shows a notice some time after it was asked to, the first one of a page after it has loaded what shows
 * it. One that is changed before then can stay as it was. So nothing is told that would be changed at once.
 */
export async function telling<T>(
  doing: string,
  work: () => Promise<T>,
  done: (result: T) => string
): Promise<T | null> {
  let id = '';
  const timer = window.setTimeout(() => {
    id = Notification.emit(doing, 'in-progress', { autoClose: false });
  }, GRACE_MS);
  const tell = (
    message: string,
    type: 'success' | 'error',
    options: Omit<IFailure, 'message' | 'type' | 'autoClose'> & { autoClose: number | false }
  ): void => {
    window.clearTimeout(timer);
    if (id === '') {
      Notification.emit(message, type, options);
    } else {
      Notification.update({ id, message, type, ...options });
    }
  };
  try {
    const result = await work();
    tell(done(result), 'success', { actions: [], autoClose: 5000 });
    return result;
  } catch (error) {
    const { message, type, ...options } = failure(wordsOf(error));
    tell(message, type, options);
    return null;
  }
}

/** Do something that is over at once, and say so only where it was refused. */
export async function trying<T>(work: () => Promise<T>): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    const { message, type, ...options } = failure(wordsOf(error));
    Notification.emit(message, type, options);
    return null;
  }
}

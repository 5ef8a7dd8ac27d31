/** Notices about what was asked for: under way, done, or why not. What failed stays until it is dismissed. */

import { Dialog, Notification, showDialog } from '@jupyterlab/apputils';

import { wordsOf } from '../api/problem';

/** JupyterLab shows so many characters of a notice. */
const SHOWN = 140;

export interface INotice {
  readonly message: string;
  readonly type: 'success' | 'error';
  readonly actions: Notification.IAction[];
  /** After how many milliseconds it goes by itself. */
  readonly autoClose: number | false;
}

/** A notice of a failure; what it has no room for comes in a dialog when it is asked for. */
export function failure(message: string): INotice {
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

export function tellFailure(text: string): void {
  const { message, type, ...options } = failure(text);
  Notification.emit(message, type, options);
}

/**
 * Put a notice in the place of one that is over.
 *
 * JupyterLab shows a notice some time after it was asked to, and one that is changed before then can stay as it was
 * for ever. One that is taken back goes, shown or not.
 */
export function conclude(id: string, notice: INotice): string {
  Notification.dismiss(id);
  const { message, type, ...options } = notice;
  return Notification.emit(message, type, options);
}

/** Do something that takes a while, and say how it went. */
export async function telling<T>(
  doing: string,
  work: () => Promise<T>,
  done: (result: T) => string
): Promise<T | null> {
  const id = Notification.emit(doing, 'in-progress', { autoClose: false });
  try {
    const result = await work();
    conclude(id, { message: done(result), type: 'success', actions: [], autoClose: 5000 });
    return result;
  } catch (error) {
    conclude(id, failure(wordsOf(error)));
    return null;
  }
}

/** Do something that is over at once, and say so only where it was refused. */
export async function trying<T>(work: () => Promise<T>): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    tellFailure(wordsOf(error));
    return null;
  }
}

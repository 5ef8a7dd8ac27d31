/** Why a request was refused, in words that can be shown. */

import type { TranslationBundle } from '@jupyterlab/translation';

/** As much of a translator as is needed here. */
export type ITranslates = Pick<TranslationBundle, '__'>;

export class Problem extends Error {
  constructor(
    message: string,
    /** What the user can do; may be empty. */
    readonly hint: string,
    /** Of the HTTP answer; 0 where there was none. */
    readonly status: number,
    /** Class of the error in the service, such as `AllocationError`. */
    readonly kind: string
  ) {
    super(message);
    this.name = 'Problem';
  }

  /** Message and hint on one line. */
  get text(): string {
    return this.hint === '' ? this.message : `${this.message} ${this.hint}`;
  }
}

/** The problem in the body of an answer; any other body gives one that names the status. */
export function problemOf(status: number, body: unknown, trans: ITranslates): Problem {
  const found =
    typeof body === 'object' && body !== null ? (body as { [key: string]: unknown }) : {};
  const text = (key: string): string =>
    typeof found[key] === 'string' ? (found[key] as string) : '';
  const message = text('message') || trans.__('The server answered with status %1.', status);
  return new Problem(message, text('hint'), status, text('error') || text('reason'));
}

/** Anything that was thrown, as a text for the user. */
export function wordsOf(error: unknown): string {
  if (error instanceof Problem) {
    return error.text;
  }
  return error instanceof Error ? error.message : String(error);
}

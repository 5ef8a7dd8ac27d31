import * as React from 'react';

import { wordsOf } from '../api/problem';

export interface IAnswer<T> {
  /** The newest answer; stays while the next one is waited for. Null before the first. */
  readonly answer: T | null;
  /** Why there was no answer the last time; empty where there was. */
  readonly problem: string;
}

/**
 * What was answered to a question that is asked again with each new `turn`.
 *
 * An answer that comes after the next question was asked is dropped. A question that is null is not asked.
 */
export function useAnswer<T>(ask: () => Promise<T> | null, turn: string): IAnswer<T> {
  const [found, setFound] = React.useState<IAnswer<T>>({ answer: null, problem: '' });
  React.useEffect(() => {
    let isCurrent = true;
    const asked = ask();
    if (asked === null) {
      setFound({ answer: null, problem: '' });
    } else {
      asked.then(
        answer => isCurrent && setFound({ answer, problem: '' }),
        error => isCurrent && setFound({ answer: null, problem: wordsOf(error) })
      );
    }
    return () => {
      isCurrent = false;
    };
  }, [turn]);
  return found;
}

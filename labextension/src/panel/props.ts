import type { IState } from '../model/state';
import type { Words } from '../words/trans';

/** What a person can do from the panel; each is also a command. */
export type Run = (command: string, args?: { readonly [name: string]: string | null }) => void;

export interface ISectionProps {
  readonly state: IState;
  readonly words: Words;
  readonly run: Run;
}

/** Sections about one session: that of the notebook in front. */
export interface IOneSessionProps extends ISectionProps {
  /** Empty: the notebook in front has no session here, or there is no notebook. */
  readonly current: string;
}

/** A notice at the top of a notebook whose session has come back after the loss of its node. */

import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';

import { Act } from '../panel/parts';
import type { Words } from '../words/trans';

export interface ILoss {
  /** Execution count of the cell that the variables are as after. */
  readonly restored: number;
  /** Counts of the cells whose effects are lost; null for one that was cut off before it had a count. */
  readonly lost: ReadonlyArray<number | null>;
}

export class LossNotice extends ReactWidget {
  constructor(
    private readonly loss: ILoss,
    private readonly words: Words,
    /** Told what to do: run the cells again, or not. */
    private readonly onAnswer: (again: boolean) => void
  ) {
    super();
    this.addClass('jp-gpuaas-notice');
    this.node.setAttribute('role', 'alert');
  }

  protected override render(): JSX.Element {
    const { trans } = this.words;
    const { restored, lost } = this.loss;
    const numbers = lost.map(count => (count === null ? '*' : String(count))).join(', ');
    return (
      <>
        <p>
          {this.words.sentences(
            trans.__(
              'The node of this session was lost. The session is back: its variables are as after cell %1.',
              restored
            ),
            trans._n(
              'What %1 cell did after that is lost: [%2].',
              'What %1 cells did after that is lost: [%2].',
              lost.length,
              numbers
            )
          )}
        </p>
        <div className="jp-gpuaas-acts">
          <Act primary label={trans.__('Rerun these cells')} onClick={() => this.answer(true)} />
          <Act label={trans.__('Go on without')} onClick={() => this.answer(false)} />
        </div>
      </>
    );
  }

  private answer(again: boolean): void {
    this.close();
    this.onAnswer(again);
  }
}

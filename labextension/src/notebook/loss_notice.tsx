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
    const { restored } = this.loss;
    return (
      <>
        <p>
          {this.words.sentences(
            trans.__(
              'The node of this session was lost. The session is back: its variables are as after cell %1.',
              restored
            ),
            this.whatIsLost()
          )}
        </p>
        <div className="jp-gpuaas-acts">
          <Act primary label={trans.__('Rerun these cells')} onClick={() => this.answer(true)} />
          <Act label={trans.__('Go on without')} onClick={() => this.answer(false)} />
        </div>
      </>
    );
  }

  private whatIsLost(): string {
    const { trans } = this.words;
    const { lost } = this.loss;
    const counts = lost.filter(count => count !== null);
    const numbers = counts.map(count => `[${count}]`).join(', ');
    const cutOff = lost.length - counts.length;
    if (cutOff === 0) {
      return trans._n(
        'What cell %2 did after that is lost.',
        'What cells %2 did after that is lost.',
        counts.length,
        numbers
      );
    }
    return counts.length === 0
      ? trans._n(
          'What the cell did that was cut off is lost.',
          'What the %1 cells did that were cut off is lost.',
          cutOff
        )
      : trans._n(
          'What cells %2 did after that is lost, and what the cell did that was cut off.',
          'What cells %2 did after that is lost, and what the %1 cells did that were cut off.',
          cutOff,
          numbers
        );
  }

  private answer(again: boolean): void {
    this.dispose();
    this.onAnswer(again);
  }
}

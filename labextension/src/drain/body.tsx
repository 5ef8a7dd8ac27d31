/** The body of the dialog that asks how a node is to be emptied. */

import type { Dialog } from '@jupyterlab/apputils';
import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { Words } from '../words/trans';

export interface IDrainWish {
  readonly minutes: number;
  readonly acceptLoss: boolean;
}

export class DrainBody extends ReactWidget implements Dialog.IBodyWidget<IDrainWish> {
  constructor(
    private readonly words: Words,
    /** Sessions that are there. */
    private readonly count: number
  ) {
    super();
    this.addClass('jp-gpuaas-dialog');
  }

  getValue(): IDrainWish {
    return this.wish;
  }

  protected override render(): JSX.Element {
    const { trans } = this.words;
    return (
      <div className="jp-gpuaas-form">
        <p>
          {trans._n(
            'It takes no new sessions, and %1 session on it moves to another node. Cells go on.',
            'It takes no new sessions, and the %1 sessions on it move to other nodes. Cells go on.',
            this.count
          )}
        </p>
        <label>
          {trans.__('Minutes that it may take')}
          <input
            type="number"
            min={1}
            defaultValue={this.wish.minutes}
            onChange={event =>
              this.change({ minutes: Math.max(1, Number(event.target.value) || 1) })
            }
          />
        </label>
        <label>
          {trans.__('Move also those that lose variables')}
          <input
            type="checkbox"
            onChange={event => this.change({ acceptLoss: event.target.checked })}
          />
        </label>
      </div>
    );
  }

  private change(part: Partial<IDrainWish>): void {
    this.wish = { ...this.wish, ...part };
  }

  private wish: IDrainWish = { minutes: 10, acceptLoss: false };
}

/** A dialog whose body may have buttons of its own: Enter on one of them presses it, instead of closing the dialog. */

import { Dialog } from '@jupyterlab/apputils';

export class OwnDialog<T> extends Dialog<T> {
  /** Whether the button that accepts can be pressed. */
  set isAcceptable(value: boolean) {
    const button = this.node.querySelector<HTMLButtonElement>('.jp-Dialog-footer .jp-mod-accept');
    if (button !== null) {
      button.disabled = !value;
    }
  }

  protected override _evtKeydown(event: KeyboardEvent): void {
    if (event.key === 'Enter') {
      const active = document.activeElement;
      const body = this.node.querySelector('.jp-Dialog-body');
      const accept = this.node.querySelector<HTMLButtonElement>('.jp-Dialog-footer .jp-mod-accept');
      if (body?.contains(active) && (active instanceof HTMLButtonElement || accept?.disabled)) {
        event.stopPropagation();
        event.preventDefault();
        if (active instanceof HTMLElement) {
          active.click();
        }
        return;
      }
    }
    super._evtKeydown(event);
  }
}

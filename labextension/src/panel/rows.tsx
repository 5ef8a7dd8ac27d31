/** A long list of which only what can be seen is on the page. */

import * as React from 'react';

/** Rows above and below those that can be seen, so that scrolling does not show a gap. */
const MARGIN = 8;
/** Lists up to this length are simply there, each row as high as it likes. */
const SHORT = 40;

export interface IRowsProps<T extends { readonly id: string }> {
  readonly label: string;
  readonly items: readonly T[];
  /** Of each row of a long list, in pixels. */
  readonly height: number;
  readonly children: (item: T) => JSX.Element;
}

export function Rows<T extends { readonly id: string }>({
  label,
  items,
  height,
  children
}: IRowsProps<T>): JSX.Element {
  const [range, setRange] = React.useState<readonly [number, number]>([0, SHORT]);
  const list = React.useRef<HTMLDivElement>(null);
  const isLong = items.length > SHORT;

  React.useEffect(() => {
    const scroller = list.current?.closest<HTMLElement>('.jp-gpuaas-section');
    if (!isLong || !scroller) {
      return;
    }
    const look = (): void => {
      const first = Math.max(0, Math.floor(scroller.scrollTop / height) - MARGIN);
      const seen = Math.ceil(scroller.clientHeight / height) + 2 * MARGIN;
      setRange(before =>
        before[0] === first && before[1] === first + seen ? before : [first, first + seen]
      );
    };
    look();
    const observer = new ResizeObserver(look);
    observer.observe(scroller);
    scroller.addEventListener('scroll', look, { passive: true });
    return () => {
      observer.disconnect();
      scroller.removeEventListener('scroll', look);
    };
  }, [isLong, height]);

  const [first, end] = isLong ? range : [0, items.length];
  return (
    <div
      ref={list}
      role="list"
      aria-label={label}
      className={isLong ? 'jp-gpuaas-rows jp-mod-long' : 'jp-gpuaas-rows'}
      style={isLong ? { height: items.length * height } : undefined}
    >
      {items.slice(first, end).map((item, index) => (
        <div
          key={item.id}
          role="listitem"
          aria-setsize={items.length}
          aria-posinset={first + index + 1}
          style={
            isLong ? { position: 'absolute', top: (first + index) * height, height } : undefined
          }
        >
          {children(item)}
        </div>
      ))}
    </div>
  );
}

import { LabIcon } from '@jupyterlab/ui-components';

const gpu = `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 16 16">
  <g class="jp-icon3" fill="#616161">
    <path d="M4 3h8a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zm.5 1.5v7h7v-7z"/>
    <path d="M6 6h4v4H6z"/>
    <path d="M5 0h1.2v2.2H5zM9.8 0H11v2.2H9.8zM5 13.8h1.2V16H5zm4.8 0H11V16H9.8zM0 5h2.2v1.2H0zm0 4.8h2.2V11H0zM13.8 5H16v1.2h-2.2zm0 4.8H16V11h-2.2z"/>
  </g>
</svg>`;

const move = `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 16 16">
  <g class="jp-icon3" fill="#616161">
    <path d="M1 2h5v5H1zm1.2 1.2v2.6h2.6V3.2zM10 9h5v5h-5z"/>
    <path d="M8 3h3.5A1.5 1.5 0 0 1 13 4.5V6h1.8L12.4 8.4 10 6h1.8V4.5a.3.3 0 0 0-.3-.3H8z"/>
    <path d="M3 9.5h1.200v2c0 .17.13.3.3.3H7V13H4.5A1.5 1.5 0 0 1 3 11.5z"/>
  </g>
</svg>`;

export const gpuIcon = new LabIcon({ name: 'jupyter-gpuaas:gpu', svgstr: gpu });
export const moveIcon = new LabIcon({ name: 'jupyter-gpuaas:move', svgstr: move });

